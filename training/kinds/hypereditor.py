"""Train HyperEditor on many instructions at once: directional (or, as the ablation, global) CLIP loss, identity and L2.

Every sample of a batch has its own instruction and a portrait that does not show the target yet (training/editing.py). The first phase
has the release's weights (L2 1, identity 0.1, CLIP 1, Ranger), with which hair colours and styles stay half done, because they change many
pixels; the second has a smaller L2.
Differs: CLIP sees both pictures through one random window (training/windows.py) and worn alike, as it was trained; with several
instructions the layer selector keeps what any of them needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.editors import Editor, HyperEditorEditor
from models.hypereditor import HyperEditor
from models.layer_selection import Steps, selected_layers
from models.pack import Pack
from models.state import GeneratorState
from training.editing import Batch, EditingConfig, EditingObjective
from training.objective import Kind, Setting, SettingError


@dataclass(frozen=True, kw_only=True)
class HyperEditorConfig(EditingConfig):
    """Settings of HyperEditor's training."""

    widths: Sequence[int] = (24, 48, 96, 160)
    depths: Sequence[int] = (1, 1, 1, 1)
    inner: int = 96
    kernel_size: int = 1
    layers: Sequence[int] | None = None
    """Output indices of the layers that get offsets; by default all but toRGB, or what the selector chooses."""
    wordings: float = 0.3
    pairs: float = 0.15
    selector: float | None = None
    """The adaptive layer selector's lambda_std (0.6 in the paper); by default every layer has a head."""
    selector_steps: Steps = "gradient"
    """How the selector moves latents: ten steps of Adam are the paper's, with which this domain's layers are hardly told apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None and self.selector is not None:
            raise ValueError(f"layers {list(self.layers)} and selector {self.selector}: give one of them, the selector chooses the layers")


class HyperEditorObjective(EditingObjective):
    """Offsets of the generator's weights from the inversion and the text direction."""

    what = "HyperEditor's training"

    def __init__(self, config: HyperEditorConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.shape = config
        self.layers = config.layers
        if config.selector is not None:
            self.layers = self._selected(config.selector, setting.needed(self.what))
        torch.manual_seed(config.seed)
        self.net: HyperEditor = HyperEditor.from_config(self.network_config())

    def _selected(self, lambda_std: float, pack: Pack) -> Sequence[int]:
        """Return what the layer selector chooses: on a CPU, so that all workers and resumed trainings choose alike."""
        if pack.device != "cpu":
            pack = Pack.load(pack.path)
        try:
            return selected_layers(pack.generator(), pack.clip(), self.instructions, lambda_std=lambda_std, by=self.shape.selector_steps)
        except ValueError as error:
            raise SettingError(f"settings.selector {lambda_std:g}: {error}") from error

    def moved(self, batch: Batch, direction_BE: Tensor, target_BE: Tensor) -> GeneratorState:
        """Return the latents with the hypernetwork's offsets."""
        return GeneratorState(latents_BLD=batch.latents_BLD, offsets=self.net.factors(batch.made_BCHW, direction_BE))

    def editor(self) -> Editor:
        """Return the editor that the hypernetwork is."""
        return HyperEditorEditor("hypereditor", self.net, clip=self.judges.clip)

    def network_config(self) -> Mapping[str, object]:
        """Return the hypernetwork's shape."""
        config, judges = self.shape, self.judges
        return {
            "size": judges.generator.size, "channels": judges.generator.channels, "kernel_size": config.kernel_size,
            "input_size": judges.generator.size, "text_dim": judges.clip.embed_dim,
            "widths": list(config.widths), "depths": list(config.depths), "inner": config.inner,
        } | ({} if self.layers is None else {"layers": list(self.layers)})  # fmt: skip


KIND = Kind(
    config=HyperEditorConfig, objective=HyperEditorObjective, network="hypereditor", summary="hypernetwork of text-driven edits",
    needs=("generator", "clip", "identity", "e4e"), reads_shards=True,
    bound_to=("generator", "clip"), reads_latents=True,
)  # fmt: skip
