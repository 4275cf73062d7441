"""The bounds of a run and the account of its resources; decides whether another window or clip may begin.

Nothing that has begun is taken back: a clip whose windows are generated is finished, whatever that costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from vace_batch.costs import BudgetSettings, Prices, Used, total


@dataclass(slots=True)
class Account:
    """Resources that all runs on an output folder have used.

    `factor` is real over predicted GPU-seconds of windows, None before the first. `stopped` is why the budget lets
    nothing more begin, None while it does.
    """

    spent: Used = Used()
    factor: float | None = None
    stopped: str | None = None
    _predicted_gpu_s: float = 0.0
    _real_gpu_s: float = 0.0

    def add(self, used: Used, predicted: Used | None = None) -> None:
        """Count resources; `predicted` is the prediction for a window that was generated with them."""
        self.spent += used
        if predicted is not None and predicted.gpu_s:
            self._predicted_gpu_s += predicted.gpu_s
            self._real_gpu_s += used.gpu_s
            self.factor = self._real_gpu_s / self._predicted_gpu_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """The number of actors of a run, and the number of windows that a GPU actor generates at once."""

    gpu: int = 1
    cpu: int = 1
    max_batch: int = 1


class Budget:
    """Decides whether more may begin, from the bounds of a run, its account, and the windows that are running."""

    def __init__(
        self,
        bounds: BudgetSettings | None = None,
        prices: Prices | None = None,
        account: Account | None = None,
        actors: Actors = Actors(),
    ) -> None:
        self._bounds = bounds or BudgetSettings()
        self._prices = prices or Prices()
        self._account = account or Account()
        self._actors = actors
        self._running: dict[str, Used] = {}
        self.looks_at_once = 2 * actors.cpu

    @property
    def is_set(self) -> bool:
        return self._bounds.is_set

    @property
    def is_over(self) -> bool:
        """Whether nothing may begin any more."""
        return self._account.stopped is not None

    @property
    def reason(self) -> str | None:
        """The reason why nothing may begin any more; None while something may."""
        return self._account.stopped

    @property
    def note(self) -> str:
        """The resources spent, to be shown beside the progress; empty without bounds."""
        return self._spent() if self.is_set else ""

    def may_begin(self, name: str, expected: Used) -> bool:
        """Whether a window may begin; it then counts as running until `end`.

        The budget is exhausted when a window is refused while none is running. Few windows run ahead (one per actor
        until the first has ended) so that a wrong prediction shows early.
        """
        if not self.is_set:
            return True
        if self.is_over or len(self._running) >= self._at_once:
            return False
        ahead = (total(self._running.values()) + expected) * (self._account.factor or 1.0)
        bound = self._bounds.exceeded(self._account.spent + ahead, self._prices)
        if bound is None:
            self._running[name] = expected
        elif not self._running:
            self._stop(bound)
        return bound is None

    def end(self, name: str) -> None:
        """Take note that a window no longer runs."""
        self._running.pop(name, None)

    def look(self) -> bool:
        """Whether another clip may be prepared, which is so until the resources spent exceed a bound."""
        if self.is_set and not self.is_over:
            bound = self._bounds.exceeded(self._account.spent, self._prices)
            if bound is not None:
                self._stop(bound)
        return not self.is_over

    @property
    def _at_once(self) -> int:
        return self._actors.gpu * (1 if self._account.factor is None else 2 * self._actors.max_batch)

    def _stop(self, bound: str) -> None:
        self._account.stopped = f"{bound} reached: {self._spent()}; raise the bound to continue"

    def _spent(self) -> str:
        spent = self._account.spent
        money = self._prices.money(spent)
        return f"{spent.gpu_s:,.1f} GPU-s spent" + ("" if money is None else f", {self._prices.say(money)} spent")
