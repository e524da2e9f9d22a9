"""The model that was used last stays open for the next job that asks for the same."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import Predictor
from engine.images import ImageLimits
from service.ivcap.items import Item, bundle_by_its_name
from service.request import PredictRequest
from service.session import Caches, keep_to_memory_limit, open_session

_log = logging.getLogger(__name__)
_MOST_BUNDLES = 4


@dataclass(slots=True)
class BundleCache:
    """Bundles that were fetched, by URN; those that were used longest ago go when there are too many."""

    most: int = _MOST_BUNDLES
    _fetched: OrderedDict[str, tuple[Item, Path]] = field(
        default_factory=OrderedDict[str, tuple[Item, Path]], init=False
    )

    def fetch(self, bundle: Item) -> Path:
        """Fetch a bundle, unless it is here; FetchError where it cannot be had."""
        urn = bundle.name.urn
        if urn not in self._fetched:
            try:
                self._fetched[urn] = bundle, bundle.fetch()
            except BaseException:
                bundle.release()
                raise
            while len(self._fetched) > self.most:
                _, (oldest, _) = self._fetched.popitem(last=False)
                oldest.release()
        self._fetched.move_to_end(urn)
        return self._fetched[urn][1]

    def release(self) -> None:
        for bundle, _ in self._fetched.values():
            bundle.release()
        self._fetched.clear()


@dataclass(slots=True)
class ModelCache:
    """At most one open model, and the bundles that were fetched; for one thread."""

    caches: Caches
    bundles: BundleCache = field(default_factory=BundleCache)
    _opened: tuple[str, PredictRequest] | None = field(default=None, init=False)
    _predictor: Predictor | None = field(default=None, init=False)
    _session: ExitStack = field(default_factory=ExitStack, init=False)

    def predictor(self, bundle: Item, request: PredictRequest, sample: Sequence[Path]) -> tuple[Predictor, bool]:
        """Open a model, unless it is the one that is open: returns it, and whether it was open before.

        It is closed when another one is asked for. Raises EngineError for whatever is wrong with bundle, request or
        machine; no model is open then.
        """
        wanted = bundle.name.urn, _opening_options(request)
        # Shapes are collected from the images of each job.
        if self._predictor is not None and self._opened == wanted and not request.auto_tune_shapes:
            _log.info("%s is open from an earlier job", bundle.name.urn)
            self._predictor.images = request.images
            keep_to_memory_limit(self._predictor, request)
            return self._predictor, True
        # Two models at a time may be more than memory holds.
        self._close_model()
        path = self.bundles.fetch(bundle)
        with bundle_by_its_name(bundle, path):
            self._predictor = self._session.enter_context(open_session(path, request, self.caches, sample))
        self._opened = wanted
        _log.info("%s was opened", bundle.name.urn)
        return self._predictor, False

    def close(self) -> None:
        """Close the model and remove what was fetched."""
        self._close_model()
        self.bundles.release()

    def _close_model(self) -> None:
        self._predictor = self._opened = None
        self._session.close()


def _opening_options(request: PredictRequest) -> PredictRequest:
    """The parameters without those that an open model does not depend on."""
    return replace(request, batch_size=None, images=ImageLimits())
