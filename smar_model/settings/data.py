"""Settings of what is read from a shop, by the Spark jobs, and of the checks on it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from smar_model.settings.section import Count, Section, Share

QueryMethod = Literal["substring", "brand_type", "drop", "swap", "characters", "misspelling", "combination"]


class Window(Section):
    days: Annotated[int, Field(ge=1, le=3_660)] = 8
    """Days of the click log that a run reads, the run's date included."""
    evaluation_days: Count = 1
    """The last of them, held out to judge the model."""


class Spark(Section):
    master: str = "local[2]"
    driver_memory: str = "1500m"
    shuffle_partitions: Count = 4
    options: dict[str, str] = Field(default_factory=dict)


class Fetch(Section):
    """Pictures that items name by URL (`smar_model/delivery/picture_fetching.py`)."""

    delay_seconds: Annotated[float, Field(ge=0)] = 0.2
    """Between two requests to one host."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60
    """For the whole of one picture: name look-up, connection, redirects, up to three tries and the waits that the host asks for, body.
    A try waits a third of it at most for an answer."""
    private_addresses: bool = False
    """Whether hosts inside the own network may be asked. Off: who can write a URL into the catalogue reaches none."""


class Pictures(Section):
    width: Count = 48
    height: Count = 64
    """Size of the thumbnails in pixels; pictures are fitted inside and padded with white."""
    maximum_bytes: Count = 20_000_000
    """A larger picture file is not read."""
    uniform_below: Annotated[float, Field(ge=0)] = 2.0
    """A picture whose luminance (0 to 255) has a smaller standard deviation says nothing. Of 16,000 photographs of
    products the plainest, small white earrings on white, has 2.6."""
    shared_by_items: Count = 10
    """A picture on more items than this says nothing about any of them: a placeholder."""
    fetch: Fetch = Fetch()


class Clicks(Section):
    sample_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the shoppers whose events are read, drawn by a hash, the same ones every day: for a quick trial of a run."""
    bot_requests_per_day: Count = 200
    """A user with more requests than this on one day is a bot: all of that day's events are quarantined."""
    bot_requests_per_minute: Count = 30
    """Likewise, with more requests than this in one minute."""


class SyntheticQueries(Section):
    per_true_query: Count = 100
    """Synthetic queries for each distinct true one, at least (SMAR, section 2.3.2)."""
    methods: tuple[QueryMethod, ...] = Field(default=get_args(QueryMethod), min_length=1)
    """Which methods of `sql/generate_queries.sql` make them; the others' share goes to these."""
    maximum_words: Annotated[int, Field(ge=1, le=20)] = 5
    """In scripts without spaces: pieces of a word's length, or twice as many letters."""
    seed: int = 0


class Labels(Section):
    minimum_clicks: Count = 1
    """A query with fewer clicks is left out of the labels."""
    unsure: tuple[Share, Share] = (0.3, 0.7)
    """Share of a query's clicks in visual departments from which to which it is left out of training: under it or at
    its lower end the query is not "fashion", at its upper end or over it is."""

    @field_validator("unsure")
    @classmethod
    def _in_order(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] > ends[1]:
            raise ValueError("the lower end comes first")
        return ends


NovelBucket = Annotated[float, Field(ge=0, lt=1)] | tuple[Share, Share]


class Segments(Section):
    """What the clicked pairs of the evaluation days are divided by (`sql/assign_segments.sql`)."""

    novel_bucket: NovelBucket = 0.0
    """Share of queries and, likewise, of items whose pairs are kept out of training, by a hash: the novel ones of a
    comparison run. 0 in production, which holds out time alone. The tokenizer still sees their words. `[0.2, 0.4]`: those from .2 to .4 of
    the hash's range, to tune on others than `0.2` judges on."""

    @field_validator("novel_bucket")
    @classmethod
    def _from_below(cls, bucket: NovelBucket) -> NovelBucket:
        if isinstance(bucket, tuple) and bucket[0] >= bucket[1]:
            raise ValueError("the lower end comes first")
        return bucket

    @property
    def novel_range(self) -> tuple[float, float]:
        """From where to where in the hash's range the bucket lies."""
        return self.novel_bucket if isinstance(self.novel_bucket, tuple) else (0.0, self.novel_bucket)


class Checks(Section):
    """Bounds of the checks between Spark and training (`smar_model/checks/run_checks.py`)."""

    maximum_quarantined: Share = 0.2
    """Largest share of a table's input rows in quarantine; of the click log also on any single day."""
    maximum_broken_pictures: Share = 0.2
    maximum_nulls: Share = 0.05
    """Largest share of a day's events without one of their fields."""
    maximum_repeated: Share = 0.05
    """Largest share of a day's events that repeat another one; a warning above."""
    minimum_training_clicks: Count = 100
    minimum_trainable_items: Share = 0.5
    """Smallest share of the catalogue's items whose text stood before the cutoff: others are not trained on."""
    minimum_trainable_clicks: Share = 0.5
    """Smallest share of the training days' clicks that are on such items."""
    minimum_items_with_queries: Share = 0.5
    """Smallest share of such items from which synthetic queries were drawn."""
    usual_volume: tuple[float, float] = (0.5, 2.0)
    """Events of the last day by the mean of the days before, for each kind of event; a warning outside."""
    possible_volume: tuple[float, float] = (0.2, 5.0)
    """Likewise; outside the run ends."""
    usual_shift: float = 0.25
    """Population stability index of the departments clicked on the last day against the days before, less what
    chance alone would give; a warning above. 0.25 is commonly called a major shift."""
    possible_shift: float = 1.0
    """Likewise; above the run ends."""
    minimum_agreement: Annotated[float, Field(gt=0)] = 1.5
    """How many times more often than by chance a word of a clicked query stands in the clicked item's text, on every
    day. 1: clicks know nothing of items; the sample shop has 14, real products with masked titles 4.8."""
    maximum_lower_half: Annotated[float, Field(gt=0)] = 0.95
    """Click-through of the lower half of the places by that of the upper half; a warning above: people look from the
    top, so a log in which it does not fall has lost its positions."""
    visual_queries: tuple[Share, Share] = (0.02, 0.98)
    """Share of labelled queries that are visual; a warning outside: the gate has nothing to learn."""
    maximum_unsure: Share = 0.5
    """Share of labels that are unsure; a warning above."""
