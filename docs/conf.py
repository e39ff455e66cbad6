"""Sphinx configuration: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``, with the extra ``docs``."""

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import sb3_pwm
from sb3_pwm.pwm import policies

project = "sb3-pwm"
author = "The sb3-pwm authors"
copyright = f"2026, {author}"
version = release = sb3_pwm.__version__

# Without intersphinx: the site builds without a network.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
# Measurements, not pages; a build folder within docs/
exclude_patterns = ["curves", "extraction", "speed", "_build"]

html_theme = "furo"
html_title = f"sb3-pwm {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

# Headings down to the third level can be linked to, as GitHub spells their anchors.
myst_heading_anchors = 3

# Types stand beside the parameters' descriptions: PWM's constructor has too many for one line.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# One parameter per line where a signature is longer than this
maximum_signature_line_length = 88


def show_constructors() -> None:
    """Give classes whose ``__new__`` takes any keywords the signature of their ``__init__``."""
    for documented in (sb3_pwm.PWM, sb3_pwm.WorldModel, *filter(is_policy, vars(policies).values())):
        signature = inspect.signature(documented.__init__)
        documented.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])


def is_policy(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, policies.PWMPolicy)


def split_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put every field of a one-line docstring, ``:param x: Of that. :return: This.``, onto a line of its own."""
    for number in reversed(range(len(lines))):
        if lines[number].startswith(":"):
            lines[number : number + 1] = re.split(r" (?=:(?:param \w+|return|raises \w+): )", lines[number])


def find_documented(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve ``sb3_pwm.data.dataset.OfflineDataset.split``: its page has it as ``sb3_pwm.OfflineDataset.split``."""
    target = node["reftarget"]
    if node.get("refdomain") != "py" or not target.startswith("sb3_pwm."):
        return None
    parts = target.split(".")
    while len(parts) > 1 and parts[0].islower():  # packages and modules
        parts.pop(0)
    node["refspecific"] = True  # look for it in every module
    arguments = node["refdoc"], app.builder, node["reftype"], ".".join(parts), node, contnode
    return env.domains["py"].resolve_xref(env, *arguments)


def setup(app: Sphinx) -> None:
    show_constructors()
    app.connect("autodoc-process-docstring", split_fields)
    app.connect("missing-reference", find_documented)
