"""What a job is going to do, checked before anything starts: instructions, networks of the pack, shards, hashes. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.editor_names import editor_names, problem
from models.instruction import Instruction, InstructionError, load_instructions
from models.inverter_names import inverter_names
from models.pack_format import PackInfo, fetch, read_info, verify
from pipeline.config import ConfigError, EditConfig, config_hash, nearest
from pipeline.registry import SCHEME, find_pack
from pipeline.settings import Running, ShardWish, Wish
from pipeline.shards import Shard, list_shards
from pipeline.tracking import tracking_uri

NEEDED = ("generator",)
NEEDED_FOR_TEXT = ("clip",)
"""What instructions need beside an editor; `attributes` is needed by those that expect some. Scores whose network is missing stay empty."""
INLINE = re.compile(r"^\s*([^:]+?)\s*:\s*(.+?)\s*->\s*(.+?)\s*(?:@\s*(\S+)\s*)?$", re.DOTALL)
BASE_BYTES = 1.5e9
BYTES_PER_PIXEL = 2e3
"""Of activations in batches of 16 (docs/performance.md)."""
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """A checked configuration with everything that it names looked up."""

    config: EditConfig
    wish: ShardWish
    content: tuple[Mapping[str, object], ...]
    """What decides on the bytes beside the configuration and the pack: instructions, or a recipe."""
    shards: tuple[Shard, ...]
    home: str
    """The output as an absolute path or URL; a preview goes below it."""
    pack: PackInfo
    pack_url: str
    """The pack as every worker can open it."""
    pack_hash: str
    pack_bytes: int
    """What the files of its networks take."""
    registry: str
    """Tracking server or database in which a pack `models:/NAME/VERSION` is looked up."""
    config_hash: str
    asked: Running
    """What `--backend`, `--precision` and `--batch_size` said; `config` has what they came to."""

    @property
    def worker_bytes(self) -> float:
        """Return about how much memory a worker on a CPU takes: libraries, the pack's networks twice, activations."""
        return BASE_BYTES + 2 * self.pack_bytes + BYTES_PER_PIXEL * self.pack.size**2

    @property
    def running(self) -> Running:
        """Return how the networks run."""
        return running(self.config)

    def run_by(self, running: Running) -> JobPlan:
        """Return the plan for networks that run otherwise, with the hash of that."""
        config = replace(self.config, backend=running.backend, precision=running.precision, batch_size=running.batch_size)
        return replace(self, config=config, config_hash=config_hash(config, self.content))

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Return the instructions that are followed."""
        return self.wish.instructions

    @property
    def output(self) -> str:
        """Return where this job writes."""
        return f"{self.home}/preview" if self.config.preview else self.home


def make_plan(config: EditConfig) -> JobPlan:
    """Look up and check all that a configuration names; changes nothing.

    Raises ConfigError, InstructionError, PackError or InputError with what is wrong and what would work.
    """
    instructions = parse_instructions(config.instructions)
    wish = Wish(instructions=instructions, keep=frozenset(config.keep), seed=config.seed)
    content = tuple(instruction.content() for instruction in instructions)
    return plan_for(config, wish=wish, content=content, shards=lambda: list_shards(config.input))


def plan_for(
    config: EditConfig, *, wish: ShardWish, content: tuple[Mapping[str, object], ...], shards: Callable[[], tuple[Shard, ...]]
) -> JobPlan:
    """Look up and check what a wish needs; `content` is what decides on the bytes beside the configuration. Raises as `make_plan` does."""
    instructions, home = wish.instructions, absolute_output(config.output)
    tracking = tracking_uri(config.tracking, home)
    pack_url, folder = _find_pack(config.pack, tracking)
    info, pack_hash = read_info(folder)
    verify(folder, info)
    _check_networks(config, info, edited=bool(instructions))
    _check_expectations(instructions, info, editor=config.editor)
    check_texts(instructions, info)
    listed = shards()
    return JobPlan(
        config=config,
        wish=wish,
        content=content,
        shards=listed[:1] if config.preview else listed,
        home=home,
        pack=info,
        pack_url=pack_url,
        pack_hash=pack_hash,
        pack_bytes=sum((folder / network.file).stat().st_size for network in info.networks.values()),
        registry=tracking,
        config_hash=config_hash(config, content),
        asked=running(config),
    )


def running(config: EditConfig) -> Running:
    """Return how a configuration wants the networks to run."""
    return Running(backend=config.backend, precision=config.precision, batch_size=config.batch_size)


def parse_instructions(given: Sequence[str]) -> tuple[Instruction, ...]:
    """Read YAML files and inline instructions, in order. Raises InstructionError."""
    found: list[Instruction] = []
    for text in given:
        found += [_inline(text)] if "->" in text else load_instructions(text)
    names = [instruction.name for instruction in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InstructionError(f"--instructions: the name {twice[0]!r} is used twice; it becomes a file name, so give each its own")
    return tuple(found)


def _inline(text: str) -> Instruction:
    match = INLINE.match(text)
    if not match:
        raise InstructionError(f"--instructions {text!r}: expected a YAML file or 'name: source -> target @strength' (strength: optional)")
    name, source, target, strength = match.groups()
    try:
        return Instruction(name=name, source=source, target=target, strength=float(strength or 1.0))
    except ValueError as error:
        raise InstructionError(f"--instructions {text!r}: {error}") from error


def _find_pack(pack: str, registry: str) -> tuple[str, Path]:
    """Return the pack as every worker can open it, an alias resolved to the version that it names now, and its folder here."""
    if pack.startswith(SCHEME):
        found = find_pack(pack, uri=registry)
        return found.url, Path(found.folder)
    return shared_path(pack), fetch(pack) if "://" in pack else Path(pack).expanduser()


def _check_networks(config: EditConfig, info: PackInfo, *, edited: bool) -> None:
    asked = [("inverter", config.inverter, inverter_names(info)), ("editor", config.editor, editor_names(info))]
    for option, wanted, valid in asked if edited else asked[:1]:
        if wanted not in valid:
            raise ConfigError(f"--{option} {wanted}: pack {config.pack} has no such {option}: {nearest(wanted, valid)}")
    if config.inverter_settings:
        from models.inverter_registry import read_settings  # imported here: it takes torch along, which most plans do not need

        read_settings(info, config.inverter, config.inverter_settings)
    if config.editor_settings and edited:
        from models import editor_registry

        editor_registry.read_settings(info, config.editor, config.editor_settings)
    needed = NEEDED + (NEEDED_FOR_TEXT if edited else ())
    missing = [name for name in needed if name not in info.networks]
    if missing:
        raise ConfigError(f"--pack {config.pack}: lacks the network {missing[0]!r}; this job needs {', '.join(needed)}")


def check_texts(instructions: Sequence[Instruction], info: PackInfo) -> None:
    """Raise InstructionError for a text that CLIP cannot read to its end.

    Only what has more letters than CLIP reads tokens is counted here, since counting takes torch along; a worker counts all.
    """
    if not instructions:
        return
    clip = info.networks["clip"].config
    model = clip["model"]
    assert isinstance(model, Mapping)
    length = int(model["text_cfg"].get("context_length", 77))
    suspects = [(one, text) for one in instructions for text in (one.source, one.target) if len(text) > length]
    if suspects:
        from models.clip_tokenizer import count_tokens  # takes torch along

        for one, text in suspects:
            if (count := count_tokens(text, clip)) > length:
                found = f"found {count} tokens, expected at most {length}"
                raise InstructionError(f"instruction {one.name!r}: text {text!r}: {found}; use fewer words")


def _check_expectations(instructions: Sequence[Instruction], info: PackInfo, *, editor: str) -> None:
    for instruction in instructions:
        wrong = problem(info, editor, instruction)
        if wrong:
            raise InstructionError(wrong)
    if "attributes" not in info.networks:
        for instruction in (instruction for instruction in instructions if instruction.expects):
            what = f"instruction {instruction.name!r}: expects {', '.join(instruction.expects)}"
            raise InstructionError(f"{what}: the pack {info.name!r} has no classifier for that; leave `expects` out")
        return
    known = attribute_names(info.networks["attributes"].config)
    for instruction in instructions:
        for name in instruction.expects:
            if name not in known:
                raise InstructionError(f"instruction {instruction.name!r}: expects {name!r}, unknown to this pack: {nearest(name, known)}")


def attribute_names(config: Mapping[str, object]) -> list[str]:
    groups, binary = config.get("groups"), config.get("binary")
    names = [str(name) for members in groups.values() for name in members] if isinstance(groups, Mapping) else []
    return names + ([str(name) for name in binary] if isinstance(binary, (list, tuple)) else [])


def absolute_output(output: str) -> str:
    """Return the absolute output. Raises ConfigError where it would land in the copy of the code that a Ray job works in."""
    if "://" in output:
        return output.rstrip("/")
    path = os.path.expanduser(output)
    if not os.path.isabs(path) and os.environ.get(RAY_JOB):
        raise ConfigError(
            f"--output {output}: a submitted job runs in a temporary copy of the folder that was shipped, which Ray deletes; "
            "give an absolute path or a URL"
        )
    return os.path.abspath(path)


def shared_path(path: str) -> str:
    """Return a path for workers: in a submitted job a relative one leads into the copy of the code that every machine has."""
    return path if "://" in path or os.environ.get(RAY_JOB) else os.path.abspath(os.path.expanduser(path))
