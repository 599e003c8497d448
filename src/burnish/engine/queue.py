"""Who is served next. Tenants take turns by what they were served so far (Sheng et al. 2024, "Fairness in Serving
Large Language Models"): whoever got least comes first, so that a flood by one delays the others by a request at most.
Within a tenant priority and age decide.
"""

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain, islice

from burnish.engine.sequence import Sequence

WRITTEN = 2.0  # a token that is written, in tokens that are read
AGE_S = 10.0  # seconds of waiting that outweigh one step of priority
REMEMBERED = 4096  # tenants


class FairQueue:
    """Sequences that wait, and what every tenant was served."""

    def __init__(self) -> None:
        self._preempted: deque[Sequence] = deque()
        self._waiting: dict[str, list[Sequence]] = {}  # by tenant, in order; none is empty
        self._open: dict[str, int] = {}  # sequences that wait or run, by tenant
        self._served: OrderedDict[str, float] = OrderedDict()  # in tokens read; whoever was served last stands last
        self._level = 0.0  # of whoever was the last to leave an empty queue

    def __len__(self) -> int:
        return len(self._preempted) + sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Sequence]:
        """In the order in which they would be served if nothing happened meanwhile."""
        tenants = sorted(self._waiting, key=lambda tenant: (self._served[tenant], _rank(self._waiting[tenant][0])))
        return chain(self._preempted, *(self._waiting[tenant] for tenant in tenants))

    def add(self, sequence: Sequence) -> None:
        """A request that came. A tenant that had none is as well served as the least served of the others at least."""
        tenant = sequence.request.tenant
        if not self._open.get(tenant):
            least = min((self._served[other] for other in self._open), default=self._level)
            self._served[tenant] = max(self._served.get(tenant, 0.0), least)
        self._open[tenant] = self._open.get(tenant, 0) + 1
        insort(self._waiting.setdefault(tenant, []), sequence, key=_rank)

    def add_preempted(self, sequence: Sequence) -> None:
        """One that ran already: it goes on before anybody begins."""
        self._preempted.appendleft(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """One that ran and gave its place to another tenant: in its old place among its own."""
        insort(self._waiting.setdefault(sequence.request.tenant, []), sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """It waits no longer. Raises ``ValueError`` if it did not."""
        if sequence in self._preempted:
            self._preempted.remove(sequence)
            return
        own = self._waiting.get(sequence.request.tenant, [])
        own.remove(sequence)
        if not own:
            del self._waiting[sequence.request.tenant]

    def close(self, sequence: Sequence) -> None:
        """Its request is over."""
        tenant = sequence.request.tenant
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]
            if not self._open:
                self._level = self._served[tenant]
            while len(self._served) > REMEMBERED and (oldest := next(iter(self._served))) not in self._open:
                del self._served[oldest]

    def first(self, count: int) -> list[Sequence]:
        """The next so many."""
        return list(islice(self, count))

    def charge(self, sequence: Sequence, num_read: int = 0, num_written: int = 0) -> None:
        """So many tokens are computed for it."""
        tenant = sequence.request.tenant
        self._served[tenant] += num_read + WRITTEN * num_written
        self._served.move_to_end(tenant)

    def rank(self, sequence: Sequence) -> tuple[float, float]:
        """The lower, the sooner: what its tenant was served, then its own place among the tenant's."""
        return self._served[sequence.request.tenant], _rank(sequence)

    def num_open(self, tenant: str) -> int:
        """Of a tenant, those that wait or run."""
        return self._open.get(tenant, 0)


def _rank(sequence: Sequence) -> float:
    """When it came, earlier by ``AGE_S`` for every step of priority: so priorities age while they wait."""
    return sequence.arrival_s + AGE_S * sequence.request.priority
