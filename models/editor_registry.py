"""Make an editor of a pack by its name; `editor_names.py` says which names a pack has.

Every class named here has `Settings`, or `settings_of(name)` where one class serves several names, and `of(name, pack, settings)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from models.editor_names import editor_names
from models.editors import Editor
from models.pack_format import PackInfo
from models.settings import NoSettings, check_name, settings_of

if TYPE_CHECKING:
    from models.pack import Pack

# Imported when used: the optimisers take LPIPS along.
BY_KIND: Mapping[str, str] = {
    "hypereditor": "models.editors:HyperEditorEditor",
    "styleclip_mapper": "models.mapper_editors:MapperEditor",
    "hairclip": "models.mapper_editors:HairClipEditor",
    "nada": "models.nada:NadaEditor",
    "deltaedit": "models.deltaedit:DeltaEditEditor",
    "style_relevance": "models.global_directions:GlobalDirectionEditor",
}
"""Kind of a network -> the class of the editor that it is."""
BY_NAME: Mapping[str, str] = {
    "clipinverter": "models.clipinverter_editor:ClipInverterEditor",
    "styleclip_optimisation": "models.text_optimisation:TextOptimisation",
    "tedigan": "models.text_optimisation:TextOptimisation",
    "stylemc": "models.stylemc:StyleMcEditor",
    "interfacegan": "models.direction_editor:AttributeEditor",
    "ganspace": "models.direction_editor:AttributeEditor",
    "sefa": "models.direction_editor:AttributeEditor",
}


def build_editor(pack: Pack, name: str, settings: Mapping[str, object]) -> Editor:
    """Return the editor `name` of a pack with its settings. Raises PackError naming what there is."""
    check_name("editor", name, pack=pack.path, info=pack.info, valid=editor_names(pack.info))
    make = cast(Callable[..., Editor], _class(pack.info, name).of)  # type: ignore[attr-defined]
    return make(name, pack, read_settings(pack.info, name, settings))


def read_settings(info: PackInfo, name: str, settings: Mapping[str, object]) -> object:
    """Return the settings of an editor, with the defaults where none are given. Raises PackError naming the nearest one."""
    cls = _class(info, name)
    kind = cls.settings_of(name) if hasattr(cls, "settings_of") else getattr(cls, "Settings", NoSettings)
    return settings_of("editor", name, kind, settings)


def _class(info: PackInfo, name: str) -> type:
    place = BY_NAME[name] if name in BY_NAME else BY_KIND[info.networks[name].kind]
    module, cls = place.split(":")
    return cast(type, getattr(importlib.import_module(module), cls))
