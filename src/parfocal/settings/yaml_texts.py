"""Read YAML in which settings that are texts stay as written.

YAML reads `0` as a number and `No` as false, but labels, columns and strata may have such names.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from parfocal.settings.values import setting_types

TEXT = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
TEXT_TYPES = (str, str | None, tuple[str, ...], tuple[str, ...] | None)


def load_value(section: str, key: str, text: str) -> Any:
    """Return the value of one setting, given as YAML.

    >>> load_value("train", "labels", "[0, 3+3]"), load_value("train", "epochs", "3")
    (['0', '3+3'], 3)

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if key in _text_settings(section):
            _keep_texts(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def load_sections(text: str) -> Any:
    """Return the content of a YAML file of sections with settings.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _refuse_repeated_keys(node)
        for section, values in _entries(node):
            for key, value in _entries(values):
                if key in _text_settings(section):
                    _keep_texts(value)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


@cache
def _text_settings(section: str) -> frozenset[str]:
    """Return the settings of a section, other than `model`, that are texts or lists of texts."""
    types = setting_types(section, None)
    return frozenset(key for key, each in types.items() if each in TEXT_TYPES)


def _entries(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the keys of a mapping with the nodes of their values; nothing of other nodes."""
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)


def _refuse_repeated_keys(node: yaml.Node | None) -> None:
    """Refuse a key that a mapping has twice, of which YAML would silently take the last value.

    Raises:
        yaml.MarkedYAMLError: there is such a key.
    """
    seen = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value in seen:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key.value} is there twice", problem_mark=key.start_mark
            )
        seen.add(key.value)
    for _, value in _entries(node):
        _refuse_repeated_keys(value)


def _keep_texts(node: yaml.Node | None) -> None:
    """Mark a single value other than null, or all single values of a list, as texts."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            if isinstance(each, yaml.ScalarNode):
                each.tag = TEXT
    elif isinstance(node, yaml.ScalarNode) and node.tag != NULL:
        node.tag = TEXT
