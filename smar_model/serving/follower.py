"""Following the registry: alias `champion` → version → tag `index` (design, decision 4), without a restart or a failed request.

One thread looks every few seconds. A pair of model and index that has become the champion is opened beside the one that answers and
takes its place in one assignment; whoever is answering with the old one keeps it until done. A registry that does not answer changes
nothing but what is reported. In the place of a champion that cannot be opened the last good release answers, which the registry names as
well (`smar.last_good`), until the champion can.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cachetools import LRUCache, TTLCache
from prometheus_client import Counter

from smar_model.errors import InputError
from smar_model.release.registry import CHALLENGER, CHAMPION, Pointer, Registered, Registry
from smar_model.serving.api_schemas import TEXT_ONLY, ReadyAnswer
from smar_model.serving.metrics import Metrics
from smar_model.serving.served_pair import (
    ServedPair,
    example_queries,
    open_release,
    open_text_only,
    why_no_text_only,
)
from smar_model.settings import Settings
from smar_model.small_start import settle

log = logging.getLogger("smar.serving")

RETRY_SECONDS = 30.0
"""Until what could not be opened is tried again, if its version's tags stay as they are: its files may still be on their way."""
LISTED_VERSIONS = 100
PART_OF_NONE = "this server holds a part of an index, and the text-only baseline has none (`smar serve` without --part)"


class NotServed(Exception):
    """There is nothing to answer with under this name; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryView:
    """What the registry said at one moment."""

    seen_at: float
    """Seconds since the epoch."""
    aliases: dict[str, str]
    versions: dict[str, dict[str, str]]
    """Version → its tags, the newest first."""
    last_good: Pointer | None

    def pointer(self, version: str) -> tuple[str, str | None]:
        """A version and the index build that it names."""
        return version, self.versions[version].get("index")


@dataclass(slots=True)
class Follower:
    """Holds the pair that answers, and a few others that were asked for to compare with."""

    settings: Settings
    metrics: Metrics
    poll_seconds: float
    others_kept: int
    """Pairs besides the champion that stay in memory."""
    part: int | None = None
    """Number of the part of each index that is opened; None: all of it."""
    takes_events: bool = False
    """Whether pairs say which of their ids look like personal data, which takes a look at each."""
    on_open: Callable[[ServedPair], None] = lambda pair: None
    """Is given each pair before it answers."""
    champion: ServedPair | None = None
    """What answers: the champion, or the last good release where that cannot be opened."""
    examples: list[str] = field(default_factory=list)
    view: RegistryView | None = None
    text_only_missing: str | None = None
    """Why the champion's run has no text-only baseline to ask; None where it has one."""
    reload_problem: str | None = None
    """Why the champion that the registry names does not answer."""
    registry_problem: str | None = None
    _others: LRUCache[tuple[str, str | None], ServedPair] = field(init=False)
    _unopened: TTLCache[object, str] = field(default_factory=lambda: TTLCache(LISTED_VERSIONS, RETRY_SECONDS))
    """Pointer and tags → why it could not be opened; a page asks for the same one with every search."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Of both."""
    _examples_again_at: float = 0.0
    _registry: Registry | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._others = LRUCache(self.others_kept)
        self.metrics.serving_champion.set_function(lambda: float(self._serves_champion()))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._follow, name="follow-registry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more looks; one that is opening a pair is not waited for."""
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self.look()
            settle()
            self._stopped.wait(self.poll_seconds)

    def look(self) -> None:
        """Look at the registry once, and open what has become the champion. Raises nothing: a server goes on with what it has."""
        try:
            self.view = self._see()
        except Exception as error:  # a database, a network, a server: each fails in its own ways
            self.metrics.registry_failures.inc()
            problem = f"the registry does not answer: {_described(error)}"
            if self.registry_problem != problem:
                log.error("%s; serving goes on with %s", problem, self._serving())
            self.registry_problem = problem
            return
        if self.registry_problem:
            log.warning("the registry answers again")
        self.registry_problem = None
        self.metrics.registry_seen.set(self.view.seen_at)
        named = self.view.aliases.get(CHAMPION)
        if named:
            self._follow_to(self.view.pointer(named))
        else:
            name = self.settings.release.model
            self.reload_problem = f"model {name!r} has no champion; `make retrain` trains and promotes one"
        if self.reload_problem:
            self._fall_back()
        if self.champion:
            self.text_only_missing = PART_OF_NONE if self.part is not None else why_no_text_only(self.champion.run)
            if not self.examples and time.monotonic() >= self._examples_again_at:
                self._find_examples(self.champion)

    def _see(self) -> RegistryView:
        self._registry = self._registry or Registry(self.settings)
        found = self._registry.models.search_model_versions(
            f"name = '{self._registry.name}'", max_results=LISTED_VERSIONS, order_by=["version_number DESC"]
        )
        registered: Registered = self._registry.registered()
        aliases = {alias: v for alias in (CHAMPION, CHALLENGER) if (v := registered.aliases.get(alias))}
        versions = {str(v.version): dict(v.tags) for v in found}
        for version in aliases.values():
            if version not in versions:
                # An alias may name a version that is gone; whoever opens it says so.
                with suppress(InputError):
                    versions[version] = {}
                    versions[version] = dict(self._registry.version(version).tags)
        return RegistryView(seen_at=time.time(), aliases=aliases, versions=versions, last_good=registered.last_good)

    def _follow_to(self, wanted: tuple[str, str | None]) -> None:
        if self._is_champion(wanted):
            self.reload_problem = None
            return
        try:
            self._answer_with(wanted, problem=None)
        except NotServed as error:  # the last good one goes on
            self.reload_problem = f"{_named_pair(*wanted)} is not served: {error}"

    def _fall_back(self) -> None:
        """Let the last good release answer, as the champion cannot."""
        wanted = self.view.last_good if self.view else None
        if wanted is not None and not self._is_champion(wanted):
            with suppress(NotServed):
                self._answer_with(wanted, problem=self.reload_problem)
                log.warning("that is the last good release")

    def _is_champion(self, pointer: tuple[str, str | None]) -> bool:
        return self.champion is not None and pointer == _pointer(self.champion)

    def _answer_with(self, pointer: tuple[str, str | None], *, problem: str | None) -> None:
        """Raises NotServed: it cannot be opened."""
        started = time.monotonic()
        pair = self._tried(pointer, failures=self.metrics.failed_reloads)
        seconds = time.monotonic() - started
        self.metrics.reload_seconds.observe(seconds)
        self.reload_problem, before, self.champion = problem, self.champion, pair
        self.metrics.reloads.inc()
        if before:
            self.metrics.serving.remove(before.version, before.model_digest, before.index_digest)
            self._keep(before)
        self.metrics.serving.labels(pair.version, pair.model_digest, pair.index_digest).set(1)
        log.info("serving %s, opened in %.1f s", self._serving(), seconds)
        self._find_examples(pair)

    def _find_examples(self, pair: ServedPair) -> None:
        self._examples_again_at = time.monotonic() + RETRY_SECONDS
        try:
            self.examples = example_queries(pair)
        except Exception as error:  # the page goes without until the next try
            log.warning("no example queries of run %s: %s", pair.run, _described(error))
            self.examples = []

    def _tried(self, pointer: tuple[str, str | None], *, failures: Counter | None = None) -> ServedPair:
        """A pair, opened if it is not yet.

        Raises:
            NotServed: it cannot be opened, or could not be a moment ago, when its version had the same tags.
        """
        if kept := self._kept(pointer):
            return kept
        version, index = pointer
        tried = pointer, str(self.view.versions.get(version) if self.view else None)
        with self._lock:
            if why := self._unopened.get(tried):
                raise NotServed(why)
        try:
            if version == TEXT_ONLY:
                pair = open_text_only(str(index), takes_events=self.takes_events)
            else:
                registry = self._registry or Registry(self.settings)
                release = registry.release(version, index=index)
                pair = open_release(release, part=self.part, takes_events=self.takes_events)
            self.on_open(pair)
            return pair
        except Exception as error:  # whatever is wrong with a release
            why, is_unexpected = _described(error), not isinstance(error, InputError)
            what = _named_pair(version, index)
            log.error("%s is not served: %s; %s answers", what, why, self._serving(), exc_info=is_unexpected)
            if failures:
                failures.inc()
            with self._lock:
                self._unopened[tried] = why
            raise NotServed(why) from error

    def resolved(self, name: str) -> tuple[str, str | None]:
        """What a name (champion, challenger, text-only, a number) stands for: a version with its index build, `text-only` with a run.

        Raises:
            NotServed: it stands for nothing.
        """
        if name == CHAMPION or (name == TEXT_ONLY and self.champion is None):
            if self.champion is None:
                raise NotServed(self.reload_problem or self.registry_problem or "the champion is being opened")
            return _pointer(self.champion)
        if name == TEXT_ONLY and self.champion:
            if self.part is not None:
                raise NotServed(PART_OF_NONE)
            return TEXT_ONLY, self.champion.run
        if self.view is None:
            raise NotServed(self.registry_problem or "the registry has not been looked at yet")
        version = self.view.aliases.get(name, name)
        if version not in self.view.versions:
            raise NotServed(f"model {self.settings.release.model!r} has no {_named(name)} among its versions")
        return self.view.pointer(version)

    def opened(self, pointer: tuple[str, str | None]) -> ServedPair | None:
        """The pair behind a resolved name if it is open."""
        champion = self.champion
        return champion if champion and pointer == _pointer(champion) else self._kept(pointer)

    def open(self, pointer: tuple[str, str | None]) -> ServedPair:
        """Open the pair behind a resolved name, which takes a while, and keep it.

        Raises:
            NotServed: it cannot be opened, or none but the champion is to be kept.
        """
        if pair := self.opened(pointer):
            return pair
        if not self.others_kept:
            raise NotServed("this server serves the champion alone (`--others 0`)")
        pair = self._tried(pointer)
        self._keep(pair)
        return pair

    def open_pairs(self) -> list[ServedPair]:
        """All that are open, the one that answers first."""
        with self._lock:
            others = list(self._others.values())
        return [*([self.champion] if self.champion else []), *others]

    def _kept(self, pointer: tuple[str, str | None]) -> ServedPair | None:
        with self._lock:
            return self._others.get(pointer)

    def _keep(self, pair: ServedPair) -> None:
        with self._lock:
            if self.others_kept:
                self._others[_pointer(pair)] = pair

    def _serves_champion(self) -> bool:
        return self.champion is not None and self.reload_problem is None

    def _serving(self) -> str:
        pair = self.champion
        return _named_pair(pair.version, pair.index_digest) if pair else "nothing"

    def ready(self) -> ReadyAnswer:
        """What answers, and what is wrong."""
        pair, problem = self.champion, self.reload_problem
        if problem and pair:
            problem = f"{problem}; {self._serving()} answers in its place"
        return ReadyAnswer(
            ready=pair is not None,
            version=pair.version if pair else None,
            model_digest=pair.model_digest if pair else None,
            index_digest=pair.index_digest if pair else None,
            is_champion=self._serves_champion(),
            problems=list(filter(None, (problem, self.registry_problem))),
        )


def _pointer(pair: ServedPair) -> tuple[str, str | None]:
    return (TEXT_ONLY, pair.run) if pair.version == TEXT_ONLY else (pair.version, pair.index_digest)


def _named_pair(version: str, index: str | None) -> str:
    return f"version {version} with index {(index or 'none')[:12]}"


def _named(name: str) -> str:
    return f"alias {name!r}" if name == CHALLENGER else f"{name!r}"


def _described(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0]
    return first if isinstance(error, InputError) else f"{type(error).__name__}: {first}"
