"""Train what a configuration of PaddleSeg describes: ``python -m demo.train_config CONFIG --save-dir DIR``."""

# PaddleSeg's package has no command for it, and two parts of its training do not run on Paddle 3: the cross entropy
# multiplies floating-point values by integers, and the evaluation joins scalars. What takes their place computes the
# same, and holds only while the training runs. Its count of operations fails, too, and is left out.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# ruff: noqa: ANN401
# Paddle and PaddleSeg ship no type information.

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converters.exporting.adapters import replaced, scalars_joined_as_vectors

_EPSILON = 1e-8


def train(config: Path, save_dir: Path, *, iters: int | None = None) -> Path:
    """Train with PaddleSeg's own loop, and return the weights (``.pdparams``) of the best step on ``val_dataset``.

    The caller trusts the configuration: PaddleSeg evaluates parts of it as Python. ``iters`` is the number of batches.
    Source: paddleseg 2.8.0: ``tools/train.py``.
    """
    import paddle
    from paddleseg.core import train as train_network
    from paddleseg.cvlibs import Config, SegBuilder
    from paddleseg.models.losses import CrossEntropyLoss

    settings = Config(str(config), iters=iters)
    builder = SegBuilder(settings)
    if builder.val_dataset is None:
        raise SystemExit(f"{config} names no val_dataset, by which the best weights are chosen: add one")
    with (
        replaced(CrossEntropyLoss, "forward", cross_entropy),
        scalars_joined_as_vectors(),
        replaced(paddle, "flops", _nothing_counted),
    ):
        train_network(
            builder.model,
            builder.train_dataset,
            val_dataset=builder.val_dataset,
            optimizer=builder.optimizer,
            losses=builder.loss,
            iters=settings.iters,
            batch_size=settings.batch_size,
            save_dir=str(save_dir),
            save_interval=max(settings.iters // 10, 1),
            # What the loop prints of a loss is its first element, and losses of Paddle 3 are scalars.
            log_iters=settings.iters + 1,
        )
    return save_dir / "best_model" / "model.pdparams"


def _nothing_counted(*_: Any, **__: Any) -> int:
    return 0


def cross_entropy(self: Any, logit: Any, label: Any, semantic_weights: Any = None) -> Any:
    """Average the cross entropy of the pixels that count, by the weights of their classes; a float32 scalar.

    ``logit`` is float32 ``[N, C, H, W]``, or with the classes last, ``label`` int ``[N, H, W]``, ``semantic_weights``
    of pixels float32 ``[N, H, W]``; None: all are equal. Source: paddleseg 2.8.0:
    ``models/losses/cross_entropy_loss.py``.
    """
    import paddle
    from paddle.nn import functional

    axis = 1 if self.data_format == "NCHW" else -1
    classes = label.astype("int64")
    losses = functional.cross_entropy(
        logit, classes, weight=self.weight, ignore_index=self.ignore_index, reduction="none", axis=axis
    ).reshape([-1])
    classes = classes.reshape([-1])
    counted = (classes != self.ignore_index).astype(losses.dtype)
    if semantic_weights is not None:
        losses = losses * semantic_weights.reshape([-1])
    shares = paddle.ones_like(counted)
    if self.weight is not None:
        shares = paddle.gather(self.weight, classes * counted.astype("int64"))
    if self.top_k_percent_pixels < 1:
        # Ignored pixels that are among these count, as in PaddleSeg.
        losses, kept = paddle.topk(losses, int(self.top_k_percent_pixels * losses.shape[0]))
        shares = paddle.gather(shares, kept)
    elif self.avg_non_ignore:
        shares = shares * counted
    return losses.mean() / (shares.mean() + _EPSILON)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.train_config", description="Train what a configuration of PaddleSeg describes."
    )
    parser.add_argument(
        "config", type=Path, help="training configuration, .yml; trust it: parts of it are run as Python"
    )
    parser.add_argument("--save-dir", type=Path, default=Path("output"), help="folder for checkpoints and best weights")
    parser.add_argument("--iters", type=int, help="number of batches; by default what the configuration says")
    options = parser.parse_args(arguments)
    print(train(options.config, options.save_dir, iters=options.iters))


if __name__ == "__main__":
    main()
