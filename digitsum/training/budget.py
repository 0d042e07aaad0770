"""How long to train on so many images: few are seen more often each, but fewer in all, in smaller batches."""

from dataclasses import dataclass

_IMAGES, _SEEN = 24_000, 240_000  # ten epochs of the full data set
_SMALL = 4_000  # images up to which batches are small: more steps for the same arithmetic
_VALIDATIONS = 20


@dataclass(frozen=True)
class Budget:
    """What follows the number of training images.

    Attributes:
        batch_size: images a batch.
        max_epochs: passes over the images.
    """

    batch_size: int
    max_epochs: int


def budget_for(num_images: int, *, fine_tuning: bool = False) -> Budget:
    """The budget for `num_images`, 1 or more: with an eighth of the images, half as many are seen in all.

    `fine_tuning`, from weights that can read, takes half of that.

    Example:
        >>> budget_for(24_000), budget_for(3_000)
        (Budget(batch_size=64, max_epochs=10), Budget(batch_size=32, max_epochs=40))
        >>> budget_for(3_000, fine_tuning=True)
        Budget(batch_size=32, max_epochs=20)
    """
    seen = _SEEN * (num_images / _IMAGES) ** (1 / 3) / (1 + fine_tuning)
    epochs = max(1, round(seen / num_images))
    epochs -= epochs % validation_interval(epochs, exact=False)
    return Budget(32 if num_images <= _SMALL else 64, epochs)


def validation_interval(max_epochs: int, *, exact: bool = True) -> int:
    """Every how many epochs to validate, about twenty times in all; 1 for 39 epochs or fewer, or without an end.

    Args:
        max_epochs: of the training; -1 for no end.
        exact: whether it must divide `max_epochs`, so that the last epoch is validated.
    """
    return max(n for n in range(1, max(1, max_epochs // _VALIDATIONS) + 1) if not exact or max_epochs % n == 0)
