"""CorePlacer: which processor a shard has its home on, and which bank its memory.

Greedy by size, then local search (moves, swaps, and moving a shard together with whom it talks to most) until nothing gets
better; then again from a few shards thrown elsewhere, as often as the size of the question allows (iterated local search:
Lourenço, Martin, Stützle 2003). Deterministic. The cost is a sum of whole numbers, so that a solver can be asked for the least.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shardwright.model.ids import ShardId
from shardwright.placement._chance import Chance
from shardwright.placement._needs import Home, Placing, ShardNeed, Traffic
from shardwright.placement._topology import Cpu, Topology

MILLI = 1000
CROWDED = 4  # the cost of each thousandth of a core that shards would use beyond what a processor has
FAR_MIB = 1  # the cost of each MiB of memory at another bank
_MIB = 2**20
_ROUNDS = 60
_MOST_ROOM = 16
_EFFORT = 2_000  # so many times from elsewhere, over the square of how many shards there are
_LACK = 10**12  # of a guarantee: whatever keeps all guarantees is cheaper


class CorePlacer:
    """Places shards over one machine. Pure: equal questions have equal answers."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._cpus = topology.cpus
        self._banks = {bank.number: bank.memory_bytes // _MIB for bank in topology.banks}
        self._bank_of = [cpu.bank for cpu in self._cpus]
        self._distances = [[topology.distance(one, other) for other in self._cpus] for one in self._cpus]

    def __repr__(self) -> str:
        return f"<CorePlacer {len(self._cpus)} processors, {len(self._banks)} banks>"

    def place(
        self, needs: Sequence[ShardNeed], traffic: Traffic, fixed: Mapping[ShardId, Home] | None = None
    ) -> Placing:
        """Homes for all of ``needs``; those of ``fixed`` stay where they are.

        No guarantee is promised twice: who does not fit beside the others is refused, the smallest last of all.
        """
        order = sorted(needs, key=lambda need: (-need.exclusive, -need.cpu - need.memory_bytes / 2**34, need.shard))
        refused: list[ShardId] = []
        while True:
            search = _Search(self, [need for need in order if need.shard not in refused], traffic, fixed or {})
            search.run()
            over = search.over()
            if over is None:
                return Placing(search.homes(), search.total(), tuple(refused))
            refused.append(over)

    def cost(self, needs: Iterable[ShardNeed], traffic: Traffic, homes: Mapping[ShardId, Home]) -> int:
        """What a placing costs; beyond 10**12 when it breaks a guarantee. Raises KeyError for a shard without a home."""
        search = _Search(self, list(needs), traffic, homes)
        return search.total()

    def index(self, cpu: int) -> int:
        return next(index for index, each in enumerate(self._cpus) if each.number == cpu)

    def at(self, index: int) -> Cpu:
        return self._cpus[index]


class _Search:
    """One local search. Shards and processors are indices; memory follows its shard where it fits."""

    def __init__(
        self, placer: CorePlacer, needs: list[ShardNeed], traffic: Traffic, fixed: Mapping[ShardId, Home]
    ) -> None:
        self._placer = placer
        self._needs = needs
        number = {need.shard: index for index, need in enumerate(needs)}
        self._talks: list[dict[int, int]] = [{} for _ in needs]
        for (one, other), weight in traffic.items():
            if one in number and other in number and one != other:
                a, b = number[one], number[other]
                self._talks[a][b] = self._talks[a].get(b, 0) + weight
                self._talks[b][a] = self._talks[b].get(a, 0) + weight
        self._cpu = [round(need.cpu * MILLI) for need in needs]
        self._use = [round(max(need.usage, need.cpu) * MILLI) for need in needs]
        self._mib = [-(-need.memory_bytes // _MIB) for need in needs]
        cpus = len(placer._cpus)
        self._given = [0] * cpus
        self._used = [0] * cpus
        self._tenants: list[set[int]] = [set() for _ in range(cpus)]
        self._stored = dict.fromkeys(placer._banks, 0)
        self._home = [-1] * len(needs)
        self._bank = [-1] * len(needs)
        self._fixed = {number[shard] for shard in fixed if shard in number}
        for index in sorted(self._fixed):
            home = fixed[needs[index].shard]
            self._put(index, placer.index(home.cpu), home.bank)

    def run(self) -> None:
        free = [index for index in range(len(self._needs)) if index not in self._fixed]
        for index in free:
            self._put(index, self._best(index)[1])
        self._descend(free)
        chance = Chance(len(free))
        best, where = self.total(), [self._where(index) for index in range(len(self._needs))]
        for _ in range(_EFFORT // max(1, len(free) ** 2)):
            self._upset(free, chance)
            self._descend(free)
            found = self.total()
            if found <= best:
                best, where = found, [self._where(index) for index in range(len(self._needs))]
            else:
                self._restore(free, where)

    def _upset(self, free: list[int], chance: Chance) -> None:
        """Two banks change places, or some shards go elsewhere: anywhere, or where it is best for one after the other."""
        if len(self._placer._banks) > 1 and chance.below(4) == 0:
            one, other = chance.sample(sorted(self._placer._banks), 2)
            self._exchange(one, other, free)
            return
        thrown = chance.sample(free, min(len(free), 2 + chance.below(1 + len(free) // 2)))
        for index in thrown:
            self._take(index)
        astray = chance.below(2) == 0
        for index in thrown:
            self._put(index, chance.below(len(self._given)) if astray else self._best(index)[1])

    def _exchange(self, one: int, other: int, free: list[int]) -> None:
        """Those who share a processor at one bank share one at the other."""
        sides = [[cpu for cpu, bank in enumerate(self._placer._bank_of) if bank == side] for side in (one, other)]
        there = {a: sides[1][place % len(sides[1])] for place, a in enumerate(sides[0])} if sides[1] else {}
        there |= {b: sides[0][place % len(sides[0])] for place, b in enumerate(sides[1])} if sides[0] else {}
        going = [index for index in free if self._home[index] in there]
        for index in going:
            self._take(index)
        for index in sorted(going, key=lambda index: (-self._mib[index], index)):
            self._put(index, there[self._home[index]])

    def _descend(self, free: list[int]) -> None:
        for _ in range(_ROUNDS):
            if not (self._moved(free) or self._room_made(free) or self._moved_together(free) or self._swapped(free)):
                return

    def _restore(self, free: list[int], where: list[tuple[int, int]]) -> None:
        for index in free:
            self._take(index)
        for index in free:
            self._put(index, *where[index])

    # -- steps: each makes the total less, or changes nothing ---------------------------------------------------

    def _moved(self, free: list[int]) -> bool:
        better = False
        for index in free:
            cpu, bank = self._home[index], self._bank[index]
            now = self._alone(index, cpu, bank)
            self._take(index)
            least, best = self._best(index)
            there = best if least < now else cpu
            self._put(index, there, None if least < now else bank)
            better |= least < now
        return better

    def _moved_together(self, free: list[int]) -> bool:
        """A shard with the one it talks to most: alone, neither would go."""
        movable, better = set(free), False
        for index in free:
            talks = self._talks[index]
            if not talks:
                continue
            partner = max(talks, key=lambda other: (talks[other], -other))
            if partner not in movable:
                continue
            before, was = self.total(), (self._where(index), self._where(partner))
            best: tuple[int, int, int] | None = None
            for first in self._choices():
                for second in {first, *self._near(first)}:
                    self._take(index)
                    self._take(partner)
                    self._put(index, first)
                    self._put(partner, second)
                    found = self.total()
                    if found < before and (best is None or found < best[0]):
                        best = (found, first, second)
            self._take(index)
            self._take(partner)
            if best is None:
                self._put(index, *was[0])
                self._put(partner, *was[1])
            else:
                self._put(index, best[1])
                self._put(partner, best[2])
                better = True
        return better

    def _room_made(self, free: list[int]) -> bool:
        """Where memory is far, one that is stored there moves to a processor elsewhere, and all that is far is stored anew."""
        placer = self._placer
        far = [index for index in free if self._bank[index] != placer._bank_of[self._home[index]]]
        far.sort(key=lambda index: (-self._mib[index], index))
        before = self.total()
        for bank in {placer._bank_of[self._home[index]] for index in far}:
            inside = [index for index in free if self._bank[index] == bank and index not in far]
            choices = [cpu for cpu in self._choices() if placer._bank_of[cpu] != bank][:_MOST_ROOM]
            for goes in inside[:_MOST_ROOM]:
                for cpu in choices:
                    was = [(index, self._where(index)) for index in (goes, *far)]
                    for index, _ in was:
                        self._take(index)
                    self._put(goes, cpu)
                    for index in far:
                        self._put(index, self._home[index])
                    if self.total() < before:
                        return True
                    for index, _ in was:
                        self._take(index)
                    for index, place in was:
                        self._put(index, *place)
        return False

    def _swapped(self, free: list[int]) -> bool:
        better = False
        for position, one in enumerate(free):
            for other in free[position + 1 :]:
                if self._home[one] == self._home[other]:
                    continue
                before, was = self._pair(one, other), (self._where(one), self._where(other))
                self._take(one)
                self._take(other)
                self._put(one, was[1][0])
                self._put(other, was[0][0])
                if self._pair(one, other) < before:
                    better = True
                    continue
                self._take(one)
                self._take(other)
                self._put(one, *was[0])
                self._put(other, *was[1])
        return better

    # -- the books -----------------------------------------------------------------------------------------------

    def _where(self, index: int) -> tuple[int, int]:
        return self._home[index], self._bank[index]

    def _put(self, index: int, cpu: int, bank: int | None = None) -> None:
        self._home[index] = cpu
        self._given[cpu] += self._cpu[index]
        self._used[cpu] += self._use[index]
        self._tenants[cpu].add(index)
        self._bank[index] = self._nearest(index, cpu) if bank is None else bank
        self._stored[self._bank[index]] += self._mib[index]

    def _take(self, index: int) -> None:
        cpu = self._home[index]
        self._given[cpu] -= self._cpu[index]
        self._used[cpu] -= self._use[index]
        self._tenants[cpu].discard(index)
        self._stored[self._bank[index]] -= self._mib[index]

    def _nearest(self, index: int, cpu: int) -> int:
        """Its processor's own bank if there is room, else the nearest with room, else its own."""
        placer = self._placer
        own = placer._bank_of[cpu]
        if self._stored[own] + self._mib[index] <= placer._banks[own]:
            return own
        distances = next(bank.distances for bank in placer.topology.banks if bank.number == own)
        room = [bank for bank, size in placer._banks.items() if self._stored[bank] + self._mib[index] <= size]
        return min(room, key=lambda bank: (distances.get(bank, 255), bank), default=own)

    def _choices(self) -> list[int]:
        """Processors worth a try: all that somebody is on, and of those that are empty one for each cache."""
        empty: dict[int, int] = {}
        for cpu, tenants in enumerate(self._tenants):
            if not tenants:
                empty.setdefault(self._placer._cpus[cpu].cache, cpu)
        return [cpu for cpu, tenants in enumerate(self._tenants) if tenants] + list(empty.values())

    def _near(self, cpu: int) -> list[int]:
        """The best empty processor beside that one."""
        row = self._placer._distances[cpu]
        others = [other for other in range(len(row)) if other != cpu]
        return [min(others, key=lambda other: (len(self._tenants[other]), row[other], other))] if others else []

    def _best(self, index: int) -> tuple[int, int]:
        """The least cost of a shard that has no home now, and where."""
        found: tuple[int, int] | None = None
        for cpu in self._choices():
            self._put(index, cpu)
            cost = self._alone(index, cpu, self._bank[index])
            self._take(index)
            if found is None or cost < found[0]:
                found = cost, cpu
        assert found is not None
        return found

    # -- the cost ------------------------------------------------------------------------------------------------

    def _alone(self, index: int, cpu: int, bank: int) -> int:
        """What changes with this shard: its processor, its bank, its traffic."""
        row = self._placer._distances[cpu]
        talk = sum(
            weight * row[self._home[other]] for other, weight in self._talks[index].items() if self._placed(other)
        )
        return self._on(cpu) - self._on(cpu, without=index) + self._memory(index, cpu, bank) + self._lack(bank) + talk

    def _placed(self, index: int) -> bool:
        return self._home[index] >= 0 and index in self._tenants[self._home[index]]

    def _pair(self, one: int, other: int) -> int:
        """The costs of two shards on different processors."""
        cpus = (self._home[one], self._home[other])
        total = sum(self._on(cpu) for cpu in cpus)
        total += sum(self._memory(index, *self._where(index)) for index in (one, other))
        total += sum(self._lack(bank) for bank in {self._bank[one], self._bank[other]})
        for index in (one, other):
            row = self._placer._distances[self._home[index]]
            total += sum(
                weight * row[self._home[there]]
                for there, weight in self._talks[index].items()
                if not (index == other and there == one)
            )
        return total

    def _on(self, cpu: int, without: int = -1) -> int:
        used, given, tenants = self._used[cpu], self._given[cpu], self._tenants[cpu]
        if without >= 0:
            used, given, tenants = used - self._use[without], given - self._cpu[without], tenants - {without}
        cost = CROWDED * max(0, used - MILLI)
        cost += _LACK * max(0, given - MILLI)
        if len(tenants) > 1 and any(self._needs[tenant].exclusive for tenant in tenants):
            cost += _LACK * (len(tenants) - 1)
        return cost

    def _memory(self, index: int, cpu: int, bank: int) -> int:
        need = self._needs[index]
        far = bank != self._placer._bank_of[cpu]
        away = need.bank is not None and need.bank != self._placer._bank_of[cpu]
        return FAR_MIB * self._mib[index] * far + FAR_MIB * self._mib[index] * away

    def _lack(self, bank: int) -> int:
        return _LACK * max(0, self._stored[bank] - self._placer._banks[bank])

    def total(self) -> int:
        talk = sum(
            weight * self._placer._distances[self._home[index]][self._home[other]]
            for index, talks in enumerate(self._talks)
            for other, weight in talks.items()
            if index < other
        )
        memory = sum(self._memory(index, *self._where(index)) for index in range(len(self._needs)))
        return talk + memory + sum(map(self._on, range(len(self._given)))) + sum(map(self._lack, self._stored))

    def over(self) -> ShardId | None:
        """Somebody, not fixed, whose guarantee cannot be kept: the least of those where too much was given."""
        lacking: list[int] = []
        for cpu, tenants in enumerate(self._tenants):
            if self._on(cpu) >= _LACK:
                lacking += tenants
        for bank in self._stored:
            if self._lack(bank):
                lacking += [index for index, where in enumerate(self._bank) if where == bank]
        free = [index for index in lacking if index not in self._fixed]
        if not free:
            return None
        least = min(free, key=lambda index: (self._cpu[index] + self._mib[index] / 16, self._needs[index].shard))
        return self._needs[least].shard

    def homes(self) -> dict[ShardId, Home]:
        return {
            need.shard: Home(self._placer._cpus[self._home[index]].number, self._bank[index])
            for index, need in enumerate(self._needs)
        }
