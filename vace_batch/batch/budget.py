"""Whether more may begin: what was spent, what runs is expected to take, and the bounds. Pure decisions, no clock.

Nothing that was begun is taken back: clips whose windows are made are finished, whatever that costs.
"""

from __future__ import annotations

from vace_batch.costs import BudgetSettings, Prices, Used, total


class Budget:
    """The bounds of one run. `spent` is what earlier runs took; `factor` real over predicted GPU-seconds, as far as
    that is known; there are `actors` GPU and `cpu_actors` CPU actors."""

    def __init__(
        self,
        settings: BudgetSettings | None = None,
        prices: Prices | None = None,
        *,
        spent: Used | None = None,
        factor: float | None = None,
        actors: int = 1,
        cpu_actors: int = 1,
        max_batch: int = 1,
    ) -> None:
        self._settings, self._prices = settings or BudgetSettings(), prices or Prices()
        self._spent = spent or Used()
        self._factor, self._actors, self._max_batch = factor, actors, max_batch
        self.looks_at_once = 2 * cpu_actors
        self._expected = self._took = 0.0
        self._open: dict[str, Used] = {}
        self.reason: str | None = None

    @property
    def is_set(self) -> bool:
        return self._settings.is_set

    @property
    def is_over(self) -> bool:
        """Nothing may begin any more."""
        return self.reason is not None

    @property
    def note(self) -> str:
        """What a person is told while the run goes on."""
        return self._said() if self.is_set else ""

    def may_begin(self, name: str, expected: Used) -> bool:
        """Whether a window may begin, which is then counted as running until `end`.

        It is over when one is refused while none runs. What runs ahead is at most what keeps the actors busy, so that
        what was expected wrongly is soon known: until a first window has ended, one an actor.
        """
        if not self.is_set:
            return True
        if self.is_over or len(self._open) >= self._at_once:
            return False
        ahead = (total(self._open.values()) + expected) * self._scale
        bound = self._settings.exceeded(self._spent + ahead, self._prices)
        if bound is None:
            self._open[name] = expected
            return True
        if not self._open:
            self.reason = f"{bound}: {self._said()}; a larger one continues"
        return False

    def look(self) -> bool:
        """Whether another clip may be looked at: not once what was spent is over a bound."""
        if self.is_set and not self.is_over:
            bound = self._settings.exceeded(self._spent, self._prices)
            if bound is not None:
                self.reason = f"{bound}: {self._said()}; a larger one continues"
        return not self.is_over

    def add(self, used: Used, expected: Used | None = None) -> None:
        """Something was used, whatever for; `expected` is what was predicted for a window that is made."""
        self._spent += used
        if expected is not None and expected.gpu_s:
            self._expected, self._took = self._expected + expected.gpu_s, self._took + used.gpu_s
            self._factor = self._took / self._expected

    def end(self, name: str) -> None:
        """A window runs no longer."""
        self._open.pop(name, None)

    @property
    def _at_once(self) -> int:
        return self._actors * (1 if self._factor is None else 2 * self._max_batch)

    @property
    def _scale(self) -> float:
        return 1.0 if self._factor is None else self._factor

    def _said(self) -> str:
        money = self._prices.money(self._spent)
        spent = f"{self._spent.gpu_s:,.1f} GPU-s" + ("" if money is None else f", {self._prices.say(money)}")
        return f"{spent} are spent"
