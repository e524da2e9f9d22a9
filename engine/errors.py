"""Every error that the engine and the converters raise.

```
EngineError
├ BundleError                 the archive, deploy.yaml or meta.json cannot be used
│ └ UnsupportedTransformError a deploy transform that cannot be repeated or undone
├ OptionError                 a combination of options that cannot be honoured
├ RuntimeUnavailableError     a library or execution provider is absent
├ ModelLoadError              the runtime refuses the program or its weights
│ └ TrialError                the process that tried the model died or took too long: what it would say is not known
├ ImageError                  unreadable, too large, wrong bands
├ InferenceError              the run itself failed; the vendor's error is its cause
└ ConversionError             the model could not be converted
  └ CalibrationError          the pictures for INT8 are too few, or cannot be read
```

A message says what happened, where (file, field, image) and what to do about it.
"""


class EngineError(Exception):
    """Base of all errors raised on purpose by this project."""


class BundleError(EngineError):
    """The model bundle is damaged, incomplete or unsafe."""


class UnsupportedTransformError(BundleError):
    """A deploy transform is random, unknown, or has arguments that cannot be honoured."""


class OptionError(EngineError):
    """An option is wrong, or the options contradict each other, the bundle, or this machine.

    Attributes:
        option: name of the option that is wrong, as users know it; None if several are, or if none is wrong by itself.
        problem: what is wrong with it, without its name.
    """

    def __init__(self, problem: str, *, option: str | None = None) -> None:
        """State a problem.

        Args:
            problem: what is wrong, and what to do.
            option: name of the option that is wrong.
        """
        super().__init__(problem if option is None else f"{option.replace('_', '-')}: {problem}")
        self.option = option
        self.problem = problem


class RuntimeUnavailableError(EngineError):
    """The runtime's library or the execution provider is not usable here."""


class ModelLoadError(EngineError):
    """The runtime could not load the model, or its first run failed."""


class TrialError(ModelLoadError):
    """The process that tried a model died, or ran out of time: the model may be at fault, or the machine."""


class ImageError(EngineError):
    """The image cannot be read, is too large, or has bands the network does not take."""


class InferenceError(EngineError):
    """Running the network failed, or it returned something that is not a segmentation."""


class ConversionError(EngineError):
    """A model could not be converted to ONNX."""


class CalibrationError(ConversionError):
    """The pictures that INT8 is calibrated with are too few, or cannot be read."""


def reason_of(cause: BaseException) -> str:
    """Say in words what was behind an error, without the name of the file that the message states anyway."""
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__


def message_of(error: BaseException) -> str:
    """Put an error into a message: one of this project says by itself what is wrong, others only with their class.

    >>> message_of(OptionError("name another folder")), message_of(KeyError("mask"))
    ('name another folder', "KeyError: 'mask'")

    Args:
        error: any.

    Returns:
        One or more lines.
    """
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
