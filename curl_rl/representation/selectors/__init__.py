"""Selectors, found by name: a class in any module of this folder is one of `curl-rl select --by`."""

from curl_rl.options import Registry
from curl_rl.representation.selectors.base import Selector

SELECTORS = Registry("selector", __name__, Selector, gives=("worth",))
