"""The generic cell rate algorithm (ITU-T I.371, annex A) over many keys, in whole nanoseconds.

1. A rate of `count` a period lets exactly `count` calls through at once, and then one each interval: in any span of time
   at most `count` and one more for each whole interval in it.
2. Nothing is forgiven. What is dropped from the table has no effect any more; what finds no room shares a bucket with
   others, so it gets less, never more. An earlier time than one that was seen counts as that one.
3. Each call costs the same, however many keys there are: nothing is ever swept.

For each key the table holds its theoretical arrival time: when the next call would come if calls kept the interval exactly.
"""

from collections import OrderedDict
from collections.abc import Hashable

from ext_authz.policy.rates import Rate

# Keys in one table: some 250 bytes each, so 16 MB. Only keys that are used up in part need a place.
MAX_KEYS = 65_536
# Buckets for keys that find no place. Which one a key has is not predictable: Python's hash of text is keyed.
SHARED_BUCKETS = 4_096
# Keys looked at for each new one. More than one, so that a table that was full empties again.
LOOKS_PER_NEW_KEY = 2


class GcraTable:
    """Counts calls by key. All times are in nanoseconds on one clock that does not go back. Not safe for threads."""

    def __init__(self, max_keys: int = MAX_KEYS, shared_buckets: int = SHARED_BUCKETS) -> None:
        self._max_keys = max_keys
        self._arrivals_ns: OrderedDict[Hashable, int] = OrderedDict()
        self._shared_ns = [0] * shared_buckets
        self._latest_ns = 0
        self.shared = 0  # calls that were counted in a shared bucket

    def __len__(self) -> int:
        """Return the number of keys that have a place of their own."""
        return len(self._arrivals_ns)

    def wait_ns(self, key: Hashable, rate: Rate, now_ns: int) -> int:
        """Return how long until a call may be made: 0 when it may be made now. Counts nothing."""
        now_ns = max(now_ns, self._latest_ns)
        wait_ns = self._arrival_ns(key) - rate.burst_ns - now_ns
        return max(0, wait_ns)

    def charge(self, key: Hashable, rate: Rate, now_ns: int) -> None:
        """Count a call for which there was no wait."""
        now_ns = max(now_ns, self._latest_ns)
        self._latest_ns = now_ns
        arrival_ns = self._arrival_ns(key)
        arrival_ns = max(arrival_ns, now_ns) + rate.interval_ns
        if key in self._arrivals_ns or self._has_room(now_ns):
            self._arrivals_ns[key] = arrival_ns
        else:
            self.shared += 1
            self._shared_ns[hash(key) % len(self._shared_ns)] = arrival_ns

    def take(self, key: Hashable, rate: Rate, now_ns: int) -> int:
        """Count a call if there is no wait for it, and return the wait."""
        wait_ns = self.wait_ns(key, rate, now_ns)
        if not wait_ns:
            self.charge(key, rate, now_ns)
        return wait_ns

    def _arrival_ns(self, key: Hashable) -> int:
        """Return the arrival time of a key; one without a place may have been counted in its shared bucket."""
        arrival_ns = self._arrivals_ns.get(key)
        return self._shared_ns[hash(key) % len(self._shared_ns)] if arrival_ns is None else arrival_ns

    def _has_room(self, now_ns: int) -> bool:
        """Look at a few of the keys that were not looked at for longest, and drop those that are whole again."""
        for _ in range(min(LOOKS_PER_NEW_KEY, len(self._arrivals_ns))):
            key, arrival_ns = self._arrivals_ns.popitem(last=False)
            if arrival_ns > now_ns:
                self._arrivals_ns[key] = arrival_ns
        return len(self._arrivals_ns) < self._max_keys
