"""The dynamic curriculum: a stage ends when its held-out loss stops getting better (`stages.N.patience`)."""

from __future__ import annotations

from typing import TypedDict

MIN_DELTA = 1e-3  # nats a supervised token: what is less than that is no improvement, but the noise of 64 samples


class PatienceState(TypedDict):
    """What a save keeps: the lowest held-out loss so far (None before the first validation), and validations since."""

    best: float | None
    waited: int


class Patience:
    """Counts validations without improvement.

    Early stopping as in Prechelt 1998, "Early Stopping - But When?", criterion UP with strips of one validation, but measured
    against the best loss so far instead of the one before, so that a loss that goes up and down ends the stage as well.

    Args:
        limit: validations in a row without improvement that end the stage; 0: none do.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.best: float | None = None
        self.waited = 0

    def validated(self, loss: float) -> bool:
        """Take note of a held-out loss ('all'). True: the stage shall end now.

        A loss that is not at least `MIN_DELTA` below the lowest one so far is no improvement; nor is one that is not a number.
        The baseline before a stage's first step is not to be told: a fresh projector may spoil the loss at first.
        """
        if self.best is None or loss < self.best - MIN_DELTA:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.spent

    @property
    def spent(self) -> bool:
        """Whether the stage shall end: also after a resume from a save that was made at its end."""
        return 0 < self.limit <= self.waited

    def state(self) -> PatienceState:
        """For a save."""
        return {"best": self.best, "waited": self.waited}

    def load(self, state: PatienceState) -> None:
        """Go on from a save."""
        self.best, self.waited = state["best"], state["waited"]

    def reason(self) -> str:
        """Why the stage ends, for the console and the metadata."""
        times = f"{self.waited} validation{'s' if self.waited != 1 else ''}"
        return f"the held-out loss has not fallen below {self.best:.4f} for {times}" if self.best is not None else "not validated"
