"""Draw the house: its rooms on floors, and an arrow from each room to those that it imports.

Run it as ``python docs/house.py``; it writes ``docs/house.svg``. Rooms, floors and arrows come from the imports of the
code. An arrow that a path of other arrows implies is left out. The script refuses to draw rooms that import each other
in a circle, and modules that no room holds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path

import grimp
import networkx as nx

PACKAGES = ("theory", "weightopt", "sim", "rl", "figures")
COLOURS = {"theory": "#dbe9f6", "weightopt": "#fde8cd", "sim": "#e0f0dc", "rl": "#f6dbe0", "figures": "#e8e2f4"}


@dataclass(frozen=True)
class Room:
    """What is written in a room, and where it stands.

    Attributes
    ----------
    about
        A few words.
    column
        The room's place from left to right; two rooms of a floor are at least 1 apart.
    members
        The names at the top of the package that belong to the room; by default the room's own.
    """

    about: str
    column: float
    members: str = ""


# The columns are chosen so that no arrow passes behind a room. Floors are not chosen: they follow from the imports.
ROOMS = {
    "theory": Room("formulas, catalogue", 1),
    "weightopt": Room("the front door", 2, "__init__"),
    "weightopt.commands": Room("the command line", 1, "__main__ cli commands"),
    "weightopt.verify": Room("verify, compare, sweep, plot", 1.5, "comparison palette plot sweep verify"),
    "weightopt.kinds": Room("kinds and methods", 1.5, "convex kinds ode"),
    "weightopt.groups": Room("tables for groups", 1),
    "weightopt.populations": Room("many prompts at once", 2),
    "weightopt.curves": Room("curves, certificates", 1, "catalogue_tables curves"),
    "weightopt.answer": Room("an answer and its table", 1.5, "answer fields tabulate"),
    "weightopt.adapters": Room("tables in other trainers", 0),
    "weightopt.table": Room(
        "tables, files, settings", 2, "columns errors files heartbeat journal settings spread table"
    ),
    "sim": Room("simulated populations", 2.95),
    "figures": Room("figures, tables, captions", 3.05),
    "rl.command": Room("commands, dry run", 4.1, "command preview"),
    "rl.train": Room("the loop", 4.1),
    "rl.run": Room("folder, checkpoints, trackers", 4.1),
    "rl.supervised": Room("makes a start model", 4.1),
    "rl.step": Room("draw, judge, weigh", 4.1),
    "rl.learning": Room("loss and update", 5.2),
    "rl.samplers": Room("torch, vLLM", 5.2),
    "rl.verification": Room("verifiers in processes", 4.4),
    "rl.processes": Room("several GPUs", 5.85),
    "rl.models": Room("policy, tokenizer", 5.85),
    "rl.tasks": Room("prompts and verifiers", 4.8),
    "rl.config": Room("all sections of a run", 4.8),
    "rl.records": Room("lines of metrics", 3.6),
    "rl.errors": Room("errors, seeds, storage", 4.8, "errors hub seeds storage"),
}

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 180, 42, 18, 34, 12
BEND = 46


def room_of(module: str) -> str:
    """The room that a module is in."""
    package, *rest = module.split(".")
    if package in ROOMS and package != "weightopt":
        return package
    if package == "rl" and rest[-1] == "config":
        return "rl.config"  # a section stands beside its user and knows nothing of rl
    top = rest[0] if rest else "__init__"
    for name, room in ROOMS.items():
        owner, _, own = name.partition(".")
        if owner == package and top in (room.members or own).split():
            return name
    raise SystemExit(f"docs/house.py has no room for {module}: give it one in ROOMS")


def rooms_and_arrows() -> nx.DiGraph:
    """Rooms, and an arrow from each to those it imports, without the arrows that others imply."""
    modules = grimp.build_graph(PACKAGES[0], *PACKAGES[1:], cache_dir=None)
    house = nx.DiGraph()
    for module in sorted(modules.modules - {"rl"}):
        for other in sorted(modules.find_modules_directly_imported_by(module)):
            one, two = room_of(module), room_of(other)
            if one != two:
                house.add_edge(one, two)
    circles = [sorted(part) for part in nx.strongly_connected_components(house) if len(part) > 1]
    if circles:
        raise SystemExit(f"these rooms import each other in a circle: {circles}")
    return nx.transitive_reduction(house)


def floors_of(house: nx.DiGraph) -> dict[str, int]:
    """The floor of each room, one above the highest room that it imports; the ground is 0."""
    floors: dict[str, int] = {}
    for room in reversed(list(nx.lexicographical_topological_sort(house))):
        floors[room] = 1 + max((floors[below] for below in house.successors(room)), default=-1)
    for one, two in combinations(sorted(floors), 2):
        if floors[one] == floors[two] and abs(ROOMS[one].column - ROOMS[two].column) < 1:
            raise SystemExit(f"{one} and {two} are on one floor: give them columns in docs/house.py at least 1 apart")
    return floors


def drawn_house() -> str:
    """The picture, as SVG."""
    house = rooms_and_arrows()
    floors = floors_of(house)
    top = max(floors.values())
    place = {
        room: (
            round(MARGIN + WIDTH / 2 + ROOMS[room].column * (WIDTH + ACROSS)),
            MARGIN + (top - floors[room]) * (HEIGHT + DOWN),
        )
        for room in sorted(floors)
    }
    width = max(x for x, _ in place.values()) + WIDTH // 2 + MARGIN
    height = 2 * MARGIN + top * (HEIGHT + DOWN) + HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
        "<title>The rooms of the house, and who imports whom</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.5L8 4L0 7.5z" fill="#555"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<g fill="none" stroke="#555" stroke-width="1.2">',
    ]
    for one, two in sorted(house.edges):
        (x, y), (u, v) = place[one], place[two]
        y += HEIGHT
        bend = min((v - y) // 2, BEND)
        lines.append(f'<path d="M{x} {y}C{x} {y + bend} {u} {v - bend} {u} {v}" marker-end="url(#tip)"/>')
    lines.append("</g>")
    for room, (x, y) in place.items():
        left, colour = x - WIDTH // 2, COLOURS[room.partition(".")[0]]
        lines += [
            f'<rect x="{left}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{colour}" stroke="#333"/>',
            f'<text x="{x}" y="{y + 18}" font-size="13.5" font-weight="bold">{escape(room)}</text>',
            f'<text x="{x}" y="{y + 34}" font-size="12">{escape(ROOMS[room].about)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(root))
    (root / "docs" / "house.svg").write_text(drawn_house(), encoding="utf-8")
