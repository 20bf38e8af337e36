"""Make an editor of a pack by its name; `editor_names.py` says which names a pack has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from models.attribute_directions import Method
from models.direction_editor import AttributeEditor, AttributeSettings
from models.editor_names import ATTRIBUTE_EDITORS, TEXT_OPTIMISERS, editor_names
from models.editors import Editor, HyperEditorEditor
from models.hypereditor import HyperEditor
from models.pack_format import PackInfo
from models.settings import NoSettings, check_name, settings_of

if TYPE_CHECKING:
    from models.pack import Pack


def build_editor(pack: Pack, name: str, settings: Mapping[str, object]) -> Editor:
    """Return the editor `name` of a pack with its settings. Raises PackError naming what there is."""
    check_name("editor", name, pack=pack.path, info=pack.info, valid=editor_names(pack.info))
    config = read_settings(pack.info, name, settings)
    if name in ATTRIBUTE_EDITORS:
        assert isinstance(config, AttributeSettings)
        return AttributeEditor(name, pack, method=cast(Method, name), settings=config)
    if name in TEXT_OPTIMISERS:
        from models.text_optimisation import TextOptimisation

        return TextOptimisation.of(name, pack, config)  # type: ignore[arg-type]
    return HyperEditorEditor(name, pack.network(name, HyperEditor), clip=pack.clip())


def read_settings(info: PackInfo, name: str, settings: Mapping[str, object]) -> object:
    """Return the settings of an editor, with the defaults where none are given. Raises PackError naming the nearest one."""
    return settings_of("editor", name, _settings_kind(name), settings)


def _settings_kind(name: str) -> type:
    if name in ATTRIBUTE_EDITORS:
        return AttributeSettings
    if name in TEXT_OPTIMISERS:
        from models import text_optimisation  # imported here: it takes LPIPS along

        return text_optimisation.SETTINGS[name]
    return NoSettings
