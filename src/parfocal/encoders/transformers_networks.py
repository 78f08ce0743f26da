"""Load networks from transformers. The only module that imports transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from parfocal.encoders.card import INSTALL, EncoderCard
from parfocal.encoders.hub import cached_files, unavailable, weights_files
from parfocal.encoders.load_guards import tensors_only
from parfocal.encoders.pooling import PublishedNetwork
from parfocal.encoders.weights import WEIGHTS_OPTION, EncoderError, first_line

REMOTE_CODE_OPTION = "--trust-remote-code"  # of every command that loads an encoder


def load_card_from_transformers(
    card: EncoderCard,
    *,
    weights: Path | None = None,
    pooled: bool = False,
    trust_remote_code: bool = False,
) -> PublishedNetwork:
    """Load the network of a published encoder.

    Args:
        card: the encoder.
        weights: folder of its repository; None to get it from the Hub.
        pooled: whether to return the network's pooled output instead of its tokens.
        trust_remote_code: whether to run code from the repository, if it contains any.

    Raises:
        EncoderError: transformers cannot be imported, code of the repository is needed and not
            trusted, or the weights are missing or of another network.
    """
    if weights is not None and not weights.is_dir():
        weights = _folder_of(card, weights)
    if card.remote_code and weights is None and not trust_remote_code:
        raise _untrusted(card)
    transformers = _import_transformers(card)
    if card.loader == "titan":
        return _load_titan(transformers, card, weights, trust_remote_code=trust_remote_code)
    model = _load(transformers, card, weights, trust_remote_code=trust_remote_code)
    files = tuple(cached_files(card.hub) if weights is None else weights_files(weights))

    def run(images: Tensor) -> Tensor:
        answer = model(pixel_values=images)
        output: Tensor = answer.pooler_output if pooled else answer.last_hidden_state
        return output

    config = model.config
    prefix_tokens = None if pooled else 1 + getattr(config, "num_register_tokens", 0)
    return PublishedNetwork(model, run, files, getattr(config, "hidden_size", None), prefix_tokens)


def _load(
    transformers: ModuleType, card: EncoderCard, weights: Path | None, *, trust_remote_code: bool
) -> nn.Module:
    """Load a network in float32, and check that none of its tensors stayed random."""
    source = card.hub if weights is None else str(weights)
    with _loading(transformers, card, weights):
        model, report = transformers.AutoModel.from_pretrained(
            source,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **card.arguments,
        )
    _refuse_random(card, source, report)
    network: nn.Module = model.eval().float()
    return network


def _load_titan(
    transformers: ModuleType, card: EncoderCard, weights: Path | None, *, trust_remote_code: bool
) -> PublishedNetwork:
    """Load the patch encoder of TITAN, CONCH v1.5, in float32.

    TITAN is built without its own weights, which are not needed, and which transformers 5 cannot
    load into the published class. Its patch encoder reads its weights, every one, from the Hub.
    """
    source = card.hub if weights is None else str(weights)
    with _loading(transformers, card, weights):
        config = transformers.AutoConfig.from_pretrained(
            source, trust_remote_code=trust_remote_code
        )
        titan = transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
        network, transform = titan.return_conch()
    network = network.eval().float()
    files = tuple(cached_files(card.hub, name=card.weights_file))
    return PublishedNetwork(network, network.__call__, files, transform=transform)


@contextmanager
def _loading(transformers: ModuleType, card: EncoderCard, weights: Path | None) -> Iterator[None]:
    """Load quietly and without pickled code, and turn errors into an EncoderError."""
    try:
        with tensors_only(), _quiet(transformers):
            yield
    # The errors of transformers, the Hub client and its HTTP library have no common base class.
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise _untrusted(card) from error
        if weights is None:
            raise unavailable(card.id, error, card=card) from error
        raise EncoderError(
            f"{card.id}: {weights} cannot be loaded ({type(error).__name__}: {first_line(error)}). "
            f"It needs the files of {card.page}: config.json and the weights."
        ) from error


def _refuse_random(card: EncoderCard, source: str, report: Any) -> None:
    """Raise if weights of another network left tensors of this one random."""
    missing = sorted(report.get("missing_keys", ()))
    mismatched = sorted(str(each) for each in report.get("mismatched_keys", ()))
    if missing or mismatched:
        raise EncoderError(
            f"{card.id}: {len(missing) + len(mismatched)} tensors are missing from {source}, first "
            f"{(missing or mismatched)[0]!r}. Give weights of that network, from {card.page}."
        )


def _import_transformers(card: EncoderCard) -> ModuleType:
    try:
        import transformers  # noqa: PLC0415 (optional, and seconds to import)
    # Not only ImportError: a torchvision that does not match torch raises RuntimeError.
    except Exception as error:
        raise EncoderError(
            f"{card.id}: transformers cannot be imported ({type(error).__name__}: "
            f"{first_line(error)}). Install it: {INSTALL[card.loader]}"
        ) from error
    return transformers  # type: ignore[no-any-return]


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Print no progress bars and no reports while transformers loads a network."""
    logging = transformers.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _folder_of(card: EncoderCard, file: Path) -> Path:
    """Return the folder of a weights file, whose config.json transformers reads."""
    if file.is_file() and (file.parent / "config.json").is_file():
        return file.parent
    found = "there is no config.json beside it" if file.is_file() else "no such file or folder"
    raise EncoderError(
        f"{card.id}: {file}: {found}. Give the folder with config.json and the weights, as they "
        f"are at {card.page}: {WEIGHTS_OPTION}."
    )


def _untrusted(card: EncoderCard) -> EncoderError:
    return EncoderError(
        f"{card.id}: loading it runs code from its repository, {card.page}. If you trust this "
        f"code, allow it: {REMOTE_CODE_OPTION}."
    )
