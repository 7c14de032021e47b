"""The documentation site: `uv run sphinx-build -W -b html docs build/site`, without a network."""

import hashlib
import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
# pages are executed by kernels of their own, which inherit this
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# they run small programs once: what counts is how long those take to compile
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

project = "policysearch"
author = "the policysearch authors"
version = release = version_of("policysearch")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "annotations",
    "command_help",
    "equations",
    "public_names",
]
exclude_patterns = ["_extensions", "figures/*.py"]
root_doc = "index"

html_theme = "furo"
html_title = "policysearch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
pygments_style = "tango"
pygments_dark_style = "github-dark"

# tables of the pages need $ and numbers as they are; headings are linked to as on a git host
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = False

# a page is executed again when its cells have changed, or any line of the package
_sources = b"".join(path.read_bytes() for path in sorted((HERE.parent / "src").rglob("*.py")))
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "executed" / hashlib.sha256(_sources).hexdigest()[:16])
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_output_stderr = "error"
nb_render_image_options = {"align": "center"}

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = False
napoleon_use_admonition_for_examples = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False
