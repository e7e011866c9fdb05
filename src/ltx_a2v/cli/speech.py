"""`--say TEXT`: the sound is spoken by a packaged voice, and kept next to the video."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltx_a2v.cli.output import say
from ltx_a2v.errors import InvalidInput, InvalidRequest, named
from ltx_a2v.media.sound.voice import MOST_CHARACTERS, check_speech, speak, voices


def add_speech_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    first, *others = voices()
    group.add_argument(
        "--say",
        metavar="TEXT",
        help=f"English text to speak, instead of --audio: at most {MOST_CHARACTERS} characters. The sound is written "
        "next to the video, as the WAV of the same name (extra voice)",
    )
    group.add_argument(
        "--voice", metavar="NAME", help=f"the voice of --say: {first}, {', '.join(others)} (default: {first})"
    )


def check_speech_flags(arguments: argparse.Namespace, audio_given: bool) -> None:
    """Raises `InvalidInput` where the flags exclude each other, and what `check_speech` raises."""
    if arguments.say is None:
        if arguments.voice is not None:
            raise InvalidRequest(
                "voice", arguments.voice, f"is only for {named('say')}; add it, with the words to speak"
            )
        return
    if audio_given:
        raise InvalidInput(f"{named('audio')} and {named('say')} both give the sound; give one of them.")
    check_speech(arguments.say, _voice(arguments))


def sound_of(video: Path) -> Path:
    """Where the spoken sound of a video is written."""
    return video.parent / f"{video.stem}.wav"


def sounds_of(arguments: argparse.Namespace, video: Path) -> tuple[Path, ...]:
    """The sound that is written with a video, if one is."""
    return () if arguments.say is None else (sound_of(video),)


@contextmanager
def spoken(arguments: argparse.Namespace, sound: Path) -> Iterator[None]:
    """Speaks where `--say` is given.

    The sound is removed again where no video comes out of it, so that the same command can be repeated.
    """
    if arguments.say is None:
        yield
        return
    say(f"ltx-a2v: the voice {_voice(arguments)} speaks {len(arguments.say)} characters: {sound}")
    speak(arguments.say, _voice(arguments), sound)
    try:
        yield
    except BaseException:
        sound.unlink(missing_ok=True)
        raise


def _voice(arguments: argparse.Namespace) -> str:
    return voices()[0] if arguments.voice is None else str(arguments.voice)
