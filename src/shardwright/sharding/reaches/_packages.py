"""Packages from outside that are known to keep to their own files: somebody looked, and a test looks again.

A package belongs here if importing it, and using what is not listed as reaching, opens nothing but files that lie beside it,
connects to nothing and starts no process. Its C code was judged by what it is for: arithmetic, codecs, drawing. All other
packages count as reaching, whatever they do.
"""

from __future__ import annotations

from types import MappingProxyType

from shardwright.sharding.reaches._known import FILES, LIBRARY, Known, quiet_but, reaches_by

_NUMPY_FILES = "load save savez savez_compressed loadtxt genfromtxt savetxt fromfile fromregex memmap DataSource"
_FORMATTERS = (
    "HtmlFormatter NullFormatter TerminalFormatter Terminal256Formatter TerminalTrueColorFormatter LatexFormatter "
    "BBCodeFormatter RawTokenFormatter RtfFormatter SvgFormatter PangoMarkupFormatter IRCFormatter"
)

PACKAGES = MappingProxyType[str, Known]({
    # hashes in its own C library, with threads at most
    "argon2": quiet_but(),
    "attr": quiet_but(),
    "attrs": quiet_but(),
    # tokens; keys may be fetched from an address
    "jwt": quiet_but(network="PyJWKClient jwks_client PyJWKSet api_jwk"),
    "markdown_it": quiet_but(files="cli"),
    "mdurl": quiet_but(),
    "msgspec": quiet_but(),
    # arrays; `lib`, `core` and the rest lead to the readers and writers of files as well
    "numpy": quiet_but(files=_NUMPY_FILES, library="lib core _core f2py ctypeslib distutils testing"),
    # pictures in memory; opening and saving are judged by the call
    "PIL": reaches_by(LIBRARY, "Image ImageChops ImageColor ImageDraw ImageEnhance ImageFilter ImageFont ImageOps ImageStat "
                      "__version__ UnidentifiedImageError"),
    "PIL.Image": quiet_but(files="open preinit", library="core init"),
    "PIL.ImageChops": quiet_but(),
    "PIL.ImageColor": quiet_but(),
    "PIL.ImageDraw": quiet_but(),
    "PIL.ImageEnhance": quiet_but(),
    "PIL.ImageFilter": quiet_but(),
    "PIL.ImageFont": reaches_by(FILES, "load_default load_default_imagefont ImageFont TransposedFont Layout"),
    "PIL.ImageOps": quiet_but(),
    "PIL.ImageStat": quiet_but(),
    # colours for text; pictures of code ask the machine for its fonts, and some lexers are read from files
    "pygments": reaches_by(LIBRARY, "highlight lex format filter filters formatter formatters lexer lexers style styles "
                           "token unistring util"),
    "pygments.formatter": quiet_but(),
    "pygments.formatters": reaches_by(FILES, _FORMATTERS),
    "pygments.lexer": quiet_but(),
    "pygments.lexers": quiet_but(files="load_lexer_from_file"),
    "pygments.style": quiet_but(),
    "pygments.styles": quiet_but(),
    "pygments.token": quiet_but(),
    "pygments.util": quiet_but(),
    # bodies that move, by its own C library; drawing them takes libraries of windows
    "pymunk": quiet_but(library="pygame_util pyglet_util matplotlib_util"),
    "sortedcontainers": quiet_but(),
    "typing_extensions": quiet_but(),
})  # fmt: skip
