"""Settings: one YAML file per deployment, loaded into one typed object.

Every stage names the sections that it reads (`smar_model/stages.py`); a change elsewhere leaves its finished
output in use. Relative paths are under the home folder (`SMAR_HOME`, by default `var/` in the checkout).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from smar_model.errors import InputError
from smar_model.url_secrets import secrets_in
from smar_model.yaml_files import Document, problem_of, read_yaml, validated, values_in

REPOSITORY = Path(__file__).resolve().parents[1]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Fusion = Literal["cross_attention", "concat", "linear", "weighted_sum", "mlp", "beyond_text", "mixture", "image"]
TextTower = Literal["transformer", "words"]
ImageTower = Literal["transformer", "placed"]
QueryTower = Literal["pytorch", "onnx", "onnx_int8"]
Routing = Literal["hard", "soft", "none"]
Trained = Literal["locked", "partly", "tuned"]
SharedStage = Literal["adapt-vision", "pretrain", "finetune", "train-text-only", "embed", "embed-release"]
QueryMethod = Literal["substring", "brand_type", "drop", "swap", "characters", "misspelling", "combination"]


ODD_IN_HOME = re.compile(r"[%?#*\[\]{}\\\x00-\x1f\x7f\ud800-\udfff]")
"""What URIs of files, Spark's patterns and the tracking database's address take for something else than a part of a name."""


def home() -> Path:
    """Folder of everything that is written: lake, runs, shops, tracking database, Airflow's own files.

    Raises:
        InputError: its name cannot be part of a URI or of a pattern.
    """
    folder = Path(os.environ.get("SMAR_HOME") or REPOSITORY / "var").resolve()
    if odd := ODD_IN_HOME.search(str(folder)):
        raise InputError(
            f"home folder {str(folder)!r}: {odd[0]!r} may not be in its name; set SMAR_HOME to a folder without % ? # * [ ] {{ }} \\ "
            "and control characters in its path"
        )
    return folder


class Section(BaseModel):
    """Base of all sections: an unknown name is an error, values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = repr(cls.model_fields[info.field_name].annotation) if info.field_name else "bool"
        parts = (
            value.values()
            if isinstance(value, dict) and kind.startswith("dict")
            else value
            if isinstance(value, list | tuple)
            else [value]
        )
        if "bool" not in kind and "Any" not in kind and any(isinstance(part, bool) for part in parts):
            raise ValueError("true or false (also written yes, no, on, off) where a number or text is asked for")
        return value


class Simulation(Section):
    """Shoppers who write the click log where a catalogue comes without one (`smar_model/shop/shoppers.py`)."""

    seed: int = 0
    items: Count = 1_500
    """Size of the catalogue: drawn, or sampled from the imported one."""
    requests_per_day: Count = 1_500
    masked: dict[str, Share] = Field(default_factory=dict)
    """Attribute → share of items whose title, category leaf and seller's attributes lose it."""
    faults: Share = 0.0
    """Share of events that carry a fault real logs have: bots, repeats, malformed rows, unknown items."""


class Shop(Section):
    root: Path
    """Folder in the layout of the README ("Your own shop")."""
    kind: Literal["own", "sample", "real_products"] = "own"
    """`own` is only read; `sample` is drawn; `real_products` is imported from SMAR_REAL_DATA. The last two
    have simulated shoppers, who write a day of the click log when a run needs it."""
    pictures: str | None = None
    """URI of an object store with the pictures (`s3://bucket/prefix`, `gs://…`, `file:///…`); credentials come from the
    environment. Unset: `pictures/` or `pictures.zip` in `root`."""
    visual_departments: list[str] = Field(min_length=1)
    """First levels of `category` in which pictures matter: SMAR's "fashion"."""
    simulation: Simulation | None = None


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
    bot_clicks: Count = 5
    """A session with as many clicks, all of them too soon after their impression, is a bot; likewise one with as many
    clicks, carts or orders on what it was not shown."""
    bot_dwell_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Too soon is sooner than this."""
    skew_minutes: Annotated[int, Field(ge=0)] = 15
    """How far clocks and late delivery may move an event out of its folder's day."""
    maximum_weight: Annotated[float, Field(ge=1)] = 10.0
    """Most that one click counts, however far down the list: bounds the variance of weighted clicks."""


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


class Segments(Section):
    """What the clicked pairs of the evaluation days are divided by (`sql/assign_segments.sql`)."""

    novel_bucket: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of queries and, likewise, of items whose pairs are kept out of training, by a hash: the novel ones of a
    comparison run. 0 in production, which holds out time alone. The tokenizer still sees their words."""
    head_share: Share = 0.5
    """The most frequent queries that make up this share of training clicks are head,"""
    torso_share: Share = 0.8
    """the next ones up to this share torso, the others tail; one click is `once`, none `new`."""
    sparse_words: Count = 3
    """A title with fewer words of letters, the brand's not counted, is sparse."""
    misleading_clicks: Count = 5
    """A title misleads where an item has at least so many training clicks,"""
    misleading_share: Share = 0.8
    """and at least this share of them came from queries that share no word with it."""


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


class Tokenizer(Section):
    vocabulary: Count = 4_096
    query_length: Count = 12
    item_length: Count = 32
    """Lengths in tokens; longer texts are cut."""


class TextEncoder(Section):
    pretrained: str | None = None
    """Name or folder of a `transformers` text encoder that is on this machine; unset: trained from scratch with the
    sizes below."""
    trained: Trained = "tuned"
    """How much of a pretrained encoder is trained; `partly`: its last blocks."""
    last_blocks: Count = 2
    tower: TextTower | None = None
    """What is trained from scratch: `transformer` is SMAR's; `words`: each word's own vector, no layer between words; unset: as the
    variant has it."""
    query_layers: Count = 2
    """Of the transformer; SMAR has 4, 2 train on two cores."""
    item_layers: Count = 1
    heads: Count = 4
    width: Count = 128


class VisionEncoder(Section):
    name: str = "test_resnet"
    """A `timm` model by name, or `local-dir:FOLDER` for one saved in a folder."""
    pretrained: bool = False
    """Take the weights that belong to the name, from the folder or from those already on this machine."""
    adapted: bool | None = None
    """Whether adapt-vision prepares the encoder before fusion; unset: as the variant has it."""
    descriptors: bool | None = None
    """Whether pictures are read by fixed histograms of colours and edges in the place of this encoder; unset: as the variant
    has it. With pretrained weights, or a GPU to adapt an encoder with: false."""
    trained: Trained = "locked"
    """How much of an adapted encoder is trained further: nothing, which lets each picture be encoded once; its last
    blocks (adapt-vision then trains no others either); all."""
    last_blocks: Count = 2
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to `timm.create_model`."""


class Network(Section):
    variant: str = "default"
    """A row of `smar_model/network/variants.py`."""
    fusion: Fusion | None = None
    """How text and picture become one embedding; unset: as the variant has it. So are routing and item_confidence."""
    dimension: Count = 128
    matryoshka: tuple[Count, ...] = ()
    """Lengths of the embeddings' prefixes that can be used alone, `dimension` among them: the loss is their mean."""
    text: TextEncoder = TextEncoder()
    vision: VisionEncoder = VisionEncoder(options={"output_stride": 16})
    """The default learns fastest from scratch among timm's small ones; the stride gives 12 patches a thumbnail."""
    image_tower: ImageTower | None = None
    """`transformer` is SMAR's; `placed`: a small network over all places of a picture at once; unset: as the variant has it."""
    image_layers: Annotated[int, Field(ge=0)] = 1
    """Of the transformer."""
    dropout: Share = 0.0
    """Inside the transformers; on a CPU it costs a quarter of the time, and hidden tokens regularise as well."""
    frames: Annotated[int, Field(ge=1, le=4)] = 1
    """Pictures of an item that are attended to at once. 1: a visit takes one of them, and the item's embedding is the
    mean over them."""
    routing: Routing | None = None
    """`hard` is SMAR's: a query meets the multimodal embedding or the text embedding; `soft`: a mixture of the two by
    P(q), which then learns from the retrieval loss too; `none`: always the multimodal embedding."""
    item_confidence: bool | None = None
    """Whether each item's own picture says how much it counts: c(item)."""

    @field_validator("matryoshka")
    @classmethod
    def _whole_among_them(cls, lengths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if lengths and max(lengths) != info.data.get("dimension"):
            raise ValueError("the longest is network.dimension itself")
        return lengths


class Optimisation(Section):
    steps: Count
    batch: Count = 256
    clicked_share: Share = 0.5
    """Share of clicked pairs in a batch; the others are synthetic, with a fresh query at each visit."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    chunk: Count | None = None
    """Pairs encoded at a time: a batch of any size in the memory of a chunk (gradient caching). Unset: all at once."""
    false_negative_margin: Annotated[float, Field(ge=0)] | None = None
    """A batch item that scores more than this above the query's own is taken for another match, not for a negative
    (ROAR, arXiv 2606.01504, has 0.1). Unset: all are negatives."""
    patience: Count | None = None
    """Training ends when the loss on held-out pairs (a sixteenth of the queries, which it then learns nothing from) has not
    fallen for so many points of its curve, which has 60. Unset: all steps."""
    random_negatives: Annotated[int, Field(ge=0)] | None = None
    """Random items of the catalogue for each pair, negatives of every query of the batch; unset: as the variant has it."""
    hard_negatives: Annotated[int, Field(ge=0)] = 0
    """Likewise of the items that a release ranks high for a clicked pair's query (`training.mining`); random ones for the other
    pairs. Pretraining and fine-tuning alone."""


class VisionAdaptation(Optimisation):
    """Weights of the losses that `adapt-vision` adds up; one of weight 0 is not computed."""

    text_weight: Annotated[float, Field(ge=0)] = 1.0
    """Contrast of a picture and the query that belongs to it."""
    naming_weight: Annotated[float, Field(ge=0)] = 0.0
    """Words of that query, named from the picture among all words of the vocabulary by a linear head that is thrown away after."""
    view_weight: Annotated[float, Field(ge=0)] = 0.3
    """Contrast of two augmented views of a picture: one more forward pass of the encoder, a third of a step's time. At equal
    time it finds more, and keeps colours that queries and categories alone let go (`docs/vision.md`)."""
    category_weight: Annotated[float, Field(ge=0)] = 0.5
    """Category of the item in the picture, by a linear head that is thrown away after."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> VisionAdaptation:
        if not (self.text_weight or self.naming_weight or self.view_weight or self.category_weight):
            raise ValueError("one of text_weight, naming_weight, view_weight and category_weight must be above 0")
        return self


class Mining(Section):
    """What `hard_negatives` are mined from (`smar_model/retrieval/mine_negatives.py`)."""

    release: str = "champion"
    """The champion, or the name of a run of this lake whose model and index are finished. Without one there are none."""
    ranks: tuple[Count, Count] = (101, 500)
    """From where to where in the release's ranking: above stand matches, below it is too easy (EBR, arXiv 2006.11632)."""
    margin: Share = 0.95
    """What scores more than this share of the clicked item's score is probably another match, and left out
    (NV-Retriever, arXiv 2407.15831)."""

    @field_validator("ranks")
    @classmethod
    def _in_order(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if ranks[0] > ranks[1]:
            raise ValueError("the higher rank comes first")
        return ranks


class Training(Section):
    seed: int = 0
    adapt_vision: VisionAdaptation
    pretrain: Optimisation
    finetune: Optimisation
    reuse_pretraining: Literal["auto", "always", "never"] = "auto"
    """Whether a run takes the pretraining of an earlier day, with its tokenizer and vision encoder, and fine-tunes the champion
    further where that descends from the same. `auto`: one of the last 7 days, made with the same settings and code;
    `always`: likewise, however old."""
    mining: Mining = Mining()
    text_first_share: Share = 0.65
    """Share of pretraining's steps that learn L_t alone. The multimodal embedding starts as the text embedding, so
    that what they learn carries over, at half the time a step; the others learn all three losses."""
    text_only_steps: Annotated[float, Field(gt=0)] = 1.0
    """Steps of the text-only baseline for each of the model's. 1: both see the same number of pairs. Its steps are about
    half as long and it adapts no vision encoder: 2 gives it about the same time."""
    modality_weights: tuple[float, float, float] = (0.3, 0.1, 1.0)
    """α, β, γ of L = αL_t + βL_i + γL_m (SMAR, section 2.3)."""
    modality_weighting: Literal["fixed", "per_department", "uncertainty", "per_pair"] = "fixed"
    """What weighs the three losses (`smar_model/network/modality_weights.py`); all but `fixed` start from α, β, γ."""
    other_modality_weights: tuple[float, float, float] = (1.0, 0.1, 0.3)
    """Under `per_department`: α, β, γ of items outside shop.visual_departments."""
    token_dropout: Share = 0.1
    """Share of an item's tokens hidden at a visit."""
    picture_views: Count = 4
    """Augmented views of each picture that the locked vision encoder encodes once; a visit takes one of them."""
    threads: Count = 2
    """Of each process."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: encoders and towers compute in bfloat16 where that is safe (autocast); weights, losses and optimiser stay
    fp32. For GPUs: on a CPU it is slower than fp32."""
    compile: bool = False
    """Whether encoders and towers are compiled (`torch.compile`): minutes at the start for faster steps."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10
    """Time between checkpoints, from which a training that was stopped goes on."""


class Index(Section):
    factory: str | None = None
    """FAISS factory string; unset: by the size of the catalogue and the recall asked for (`smar_model/retrieval/index.py`)."""
    minimum_recall: Share = 0.99
    """Of the exact 100 best, measured at build with real queries: search parameters are chosen to reach it whatever the share of
    pictures in a query's score; below it the build fails."""
    parts: Count = 1
    """Into how many files the index is cut, each with its stretch of the items: a server may hold one of them (`smar serve --part`), and
    one in front asks them all (`smar serve --front`)."""
    query_tower: QueryTower = "pytorch"
    """What encodes queries where the index is served: `pytorch`, or the tower exported to ONNX Runtime, `onnx`, or `onnx_int8` with its
    matrices in 8 bits."""


class Evaluation(Section):
    depth: Count = 100
    maximum_queries: Count = 10_000
    bootstrap_samples: Count = 1_000
    shown_queries: Count = 40
    """In the report, with the pictures found."""
    seed: int = 0


class Gate(Section):
    """What a challenger must show to become the champion (`docs/gate.md`). Margins are of Recall@50 as a share, 0.01 is one point,
    and of paired differences on the same queries."""

    minimum_queries: Count = 100
    over_popularity: float = 1.0
    """Least ratio of the model's Recall@50 to popularity's."""
    over_bm25: float = 1.0
    champion_margin: Share = 0.01
    """The challenger must be shown to be at most this much worse than the champion: one-sided 95 % bound of the difference. What a
    number of queries can show is in `docs/gate.md`: 0.01 takes 10,000 of them."""
    anchor_margin: Share = 0.015
    """Likewise than the best release of the last 28 days, and than the newest cold start: how much small losses may add up to."""
    guarded_segments: dict[str, Share] = Field(
        default_factory=lambda: dict.fromkeys(("fashion", "not_fashion", "novel", "query_once", "title_sparse"), 0.005)
    )
    """Segment → loss against the champion that is let pass there. A larger one refuses once it is shown: all of them together
    refuse at most one in ten challengers whose losses are no larger."""
    better_in: tuple[str, ...] = ()
    """Segments (`overall` is all queries) in which the challenger must be shown to be better than the champion."""
    precision_margin: Annotated[float, Field(ge=0)] = 0.05
    """By how much of the champion's relevance precision, P@50 outside fashion, the challenger's may be worse, shown like
    `champion_margin`: precision is what recall can be bought with."""
    maximum_calibration_error: Share = 0.05
    """Mean distance of P(q) from the share of visual queries that it promises."""
    maximum_search_p99_ms: Annotated[float, Field(gt=0)] | None = None
    """Of one query on one thread through the built index; unset: whatever it is."""
    minimum_effective_rank: Annotated[float, Field(ge=0)] = 10.0
    """Directions that the embeddings use, of `network.dimension`: near 1 when they have collapsed, about half of 128 when healthy."""
    maximum_near_duplicates: Share = 0.5
    """Share of items that search cannot tell from another one, by text and pictures together."""
    maximum_hub_skewness: Annotated[float, Field(ge=0)] = 5.0
    """Skewness of how often items are found, less what chance gives: high when a few items are in everybody's results."""
    drift: Literal["critical", "warning"] = "critical"
    """From which severity a failed check of how queries and clicks have shifted refuses. check-data ends the run at critical ones."""


class Release(Section):
    tracking_uri: str | None = None
    """MLflow tracking and registry; unset: SQLite in the home folder."""
    experiment: str = "smar_retrain"
    model: Annotated[str, Field(pattern=r"^[^/:\\.][^/:\\]{0,119}$")] = "smar"
    """Its name in the registry, without / : and \\."""
    keep: Count = 5
    """The last so many releases whose index builds and local copies `smar prune` leaves; champion, challenger and their predecessors
    always."""
    keep_days: Annotated[int, Field(ge=8)] = 14
    """Outputs of runs that did something in the last so many days stay as well; a run builds on one of at most 7 days before."""


class Stages(Section):
    python: dict[str, str] = Field(default_factory=dict)
    """Stage → interpreter that runs it; the default is the one that runs the DAG's commands."""
    torchrun: dict[SharedStage, tuple[str, ...]] = Field(default_factory=dict)
    """Stage → arguments of torchrun, such as `[--nproc-per-node=gpu]`, for training in several processes or embedding on several machines
    (`docs/training.md`); unset: in one."""


class Settings(Section):
    shop: Shop
    window: Window = Window()
    spark: Spark = Spark()
    pictures: Pictures = Pictures()
    clicks: Clicks = Clicks()
    synthetic_queries: SyntheticQueries = SyntheticQueries()
    labels: Labels = Labels()
    segments: Segments = Segments()
    checks: Checks = Checks()
    tokenizer: Tokenizer = Tokenizer()
    network: Network = Network()
    training: Training
    index: Index = Index()
    evaluation: Evaluation = Evaluation()
    gate: Gate = Gate()
    release: Release = Release()
    stages: Stages = Stages()

    @property
    def shop_root(self) -> Path:
        return home() / self.shop.root

    @property
    def tracking_uri(self) -> str:
        return self.release.tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"

    def section(self, dotted: str) -> Any:
        """Plain value of a section or of one setting in it, such as `training.pretrain`."""
        value: Any = self.model_dump(mode="json")
        for name in dotted.split("."):
            value = value[name]
        return value


def load_settings(path: Path) -> Settings:
    """Read a settings file that a person wrote.

    Raises:
        InputError: it cannot be read (`read_yaml`), holds a password or key, or a setting is unknown or out of its bounds.
    """
    document = read_yaml(path, advice="the settings that ship are in configs/")
    refuse_secrets(document)
    return _validated(document)


def load_recorded_settings(path: Path) -> Settings:
    """Read the settings file of a release, which an older version may have written.

    Raises:
        InputError: it cannot be read, or is not this version's.
    """
    return _validated(read_yaml(path, advice="the release is not whole"))


def validate_settings(content: Any, *, source: str) -> Settings:
    """Turn plain values into settings; `source` names their origin in the error."""
    return _validated(Document(source, content, {}))


def refuse_secrets(document: Document) -> None:
    """Raises InputError where a setting holds a password or key: settings are recorded, logged and shown."""
    for place in secrets_in(document.content):
        raise InputError(
            f"{document.where(place)}: holds a password or key, which runs would record; take it out, and {_way(place)}"
        )


def _way(place: tuple[str | int, ...]) -> str:
    if place[:2] == ("release", "tracking_uri"):
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) in the environment, for a database "
            "its own variables, as PGPASSWORD"
        )
    if place[:1] == ("spark",):
        return "name it in conf/spark-defaults.conf of Spark's own folder (SPARK_CONF_DIR), or in the environment as AWS_SECRET_ACCESS_KEY"
    return (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (Google: GOOGLE_APPLICATION_CREDENTIALS; Azure: AZURE_STORAGE_ACCOUNT_KEY) "
        "in the environment"
    )


def _validated(document: Document) -> Settings:
    for place, value in values_in(document.content):
        problem = problem_of(value)
        if (
            not problem
            and isinstance(value, str)
            and any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in value)
        ):
            problem = "a control character in a text; take it out"
        if problem:
            raise InputError(f"{document.where(place)}: {problem}")
    return validated(Settings.model_validate, document)
