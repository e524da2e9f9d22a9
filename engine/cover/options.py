"""What may be asked of the cover; light, for who only asks."""

from dataclasses import dataclass
from typing import ClassVar

from engine.declaration import Options, option


@dataclass(frozen=True, slots=True)
class ConfidenceOptions(Options):
    """What is told of the network's confidence.

    Attributes:
        unsure: pixels whose class is less probable become a class of their own; None: none do.
    """

    title: ClassVar[str] = "Confidence"

    unsure: float | None = option(
        None,
        "Give pixels whose class is less probable than this, such as 0.6, to a class unsure, with a cover of its own. "
        "It needs a network that returns scores.",
        above=0,
        below=1,
    )


@dataclass(frozen=True, slots=True)
class CoverOptions(Options):
    """What is measured on a mask besides the share of each class.

    Attributes:
        confidence: of the network in its classes.
    """

    title: ClassVar[str] = "Cover"

    confidence: ConfidenceOptions = ConfidenceOptions()

    def record(self) -> dict[str, object]:
        """Name what is asked for, as JSON values from which the options can be made again."""
        usual = type(self)().values()
        return {name: value for name, value in self.values().items() if value != usual[name]}
