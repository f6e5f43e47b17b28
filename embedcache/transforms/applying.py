"""From the options to the transforms, in their order: windows, then the other strand, then translation."""

from __future__ import annotations

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import Source


def transformed(source: Source, options: InputOptions) -> Source:
    """Put the transforms that the options ask for around a source.

    Raises
    ------
    InputError : an option cannot be read, or does not go with the others.
    """
    from embedcache.transforms.strands import BothStrands
    from embedcache.transforms.translation import translation_of
    from embedcache.transforms.windows import windows_of

    _check_used(options)
    if options.windows is not None:
        source = windows_of(
            source,
            options.windows,
            short=options.short or "keep",
            least=options.min_window,
            seed=options.window_seed,
            about=options.about,
        )
    if options.reverse_complement == "add":
        source = BothStrands(source)
    if options.translate is not None:
        source = translation_of(
            source,
            options.translate,
            code=options.genetic_code,
            stops=options.stops,
            orf=options.orf,
            least=options.min_length,
        )
    return source


def _check_used(options: InputOptions) -> None:
    """Raise for an option that has nothing to act on."""
    of_windows = {"--short": options.short, "--min-window": options.min_window, "--about": options.about}
    of_translation = {"--stops": options.stops, "--orf": options.orf, "--min-length": options.min_length}
    for main, given, others in (
        ("--windows", options.windows, of_windows),
        ("--translate", options.translate, of_translation),
    ):
        idle = next((name for name, value in others.items() if value is not None), None)
        if given is None and idle:
            raise InputError(f"{idle} says how {main} is done: give {main} too, or leave it out")
