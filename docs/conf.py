"""Sphinx: `make docs` builds docs/_build/html, and fails on a broken link or a missing reference."""
import mobileone_mm

project = 'mobileone_mm'
author = 'The authors of mobileone_mm'
version = release = mobileone_mm.__version__
html_title = f'mobileone_mm {version}'

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build']
myst_heading_anchors = 3
myst_enable_extensions = ['attrs_block', 'colon_fence']
html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['mobileone.css']
html_theme_options = dict(navigation_with_keys=True)
html_copy_source = html_show_sourcelink = html_show_copyright = False
copybutton_prompt_text = r'>>> |\.\.\. '
copybutton_prompt_is_regexp = True
pygments_style, pygments_dark_style = 'friendly', 'github-dark'

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True

nitpicky = True
# Other libraries, whose inventories a build without a network cannot ask.
nitpick_ignore_regex = [
    (r'py:.*', r'(abc|argparse|collections|importlib|os|pathlib|types|typing)\..*'),
    (r'py:.*', r'(torch|nn|numpy|np|mmengine|mmcv|mmdet|mmseg|mmpretrain)\..*'),
]
