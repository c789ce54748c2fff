"""Small programs for measuring plans: the same seed gives the same program.

A program is one module of up to twelve functions. Some are called in loops whose rounds do not need each other, some where
one waits for the other; some do much with little, some little with much; some call each other.
"""

from __future__ import annotations

from random import Random

__all__ = ["MANIFEST", "small_program"]

MANIFEST = '[app]\nname = "small"\nmain = "small:main"\n[components.small]\ncode = "small"\n'
MOST = 12
_WORK = """
def {name}(item{more}):
    total = len(item)
    for number in range({rounds}):
        total = (total * 31 + number) % 1000003
{inner}    return {result}
"""


def small_program(seed: int, *, run_s: float = 0.6) -> str:
    """Its source. It runs for about ``run_s`` uncut, and prints one number."""
    chance = Random(f"shardwright small programs {seed}")
    count = chance.randint(3, MOST - 1)
    shares = [chance.random() ** 2 + 0.02 for _ in range(count)]
    parts = []
    called: list[str] = []
    free = list(range(count))
    nested: dict[int, int] = {}
    for number in range(1, count):  # some are called by one before them
        if chance.random() < 0.25:
            nested[number] = chance.randrange(number)
            free.remove(number)
    calls = {number: chance.choice((8, 20, 60, 200)) for number in free}
    for number in free:
        if chance.random() < 0.2:
            calls[number] = chance.choice((400, 1500))  # little work in each
    for number in sorted(nested):
        calls[number] = calls[nested[number]]
    whole = sum(shares)
    for number in reversed(range(count)):
        inner = "".join(
            f"    total += work{child}(item)[0] % 7\n" for child in sorted(nested) if nested[child] == number
        )
        rounds = max(1, int(run_s * shares[number] / whole / calls[number] / 60e-9))
        result = "[total] * 4000" if chance.random() < 0.15 else "[total]"
        parts.append(_WORK.format(name=f"work{number}", more="", rounds=rounds, inner=inner, result=result))
    for number in free:
        size = chance.choice((4, 4, 40, 4000))
        items = f"[[round, {number}] * {size} for round in range({calls[number]})]"
        kind = chance.random()
        if kind < 0.45:
            called.append(f"    for item in {items}:\n        said += work{number}(item)[0]\n")
        elif kind < 0.7:
            called.append(f"    said += sum([work{number}(item)[0] for item in {items}])\n")
        elif kind < 0.8:
            called.append(f"    said += sum(answer[0] for answer in map(work{number}, {items}))\n")
        else:  # each needs the one before
            called.append(
                f"    last = [{number}]\n    for _ in range({calls[number]}):\n        last = work{number}(last[:3])\n"
                "    said += last[0]\n"
            )
    return "".join(parts) + "\ndef main():\n    said = 0\n" + "".join(called) + "    print(said)\n"
