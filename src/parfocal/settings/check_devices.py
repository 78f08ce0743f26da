"""Check the settings of a training on several devices."""

from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import RunSettings


def check_devices(settings: RunSettings) -> None:
    """Refuse several devices for a training that they cannot share.

    Raises:
        SettingsError: they cannot share it.
    """
    train, name = settings.train, settings.model.name
    if train.devices == 1:
        return
    start = f"train.devices={train.devices}"
    if train.build_task().compares_slides:
        raise SettingsError(
            f"{start}: the loss of task {train.task} compares the slides of a step with each "
            "other, and their gradients are computed one after the other; train it on one device."
        )
    if settings.model.traits.takes_pixels:
        if train.per == "patient":
            raise SettingsError(
                f"{start}: with train.per=patient, model {name} runs on the slides of one patient "
                "at a time, and its running statistics depend on their order; train it on one "
                "device."
            )
        if train.batch_size < train.devices:
            raise SettingsError(
                f"{start}: the devices share each batch, and train.batch_size={train.batch_size} "
                "is less than one slide for each; raise it, or use fewer devices."
            )
    elif train.accumulate_grad_batches < train.devices:
        raise SettingsError(
            f"{start}: model {name} trains on one slide at a time, and a step has "
            f"train.accumulate_grad_batches={train.accumulate_grad_batches}, less than one slide "
            "for each device. Raise it, which changes the training, or use one device; --folds "
            "with --workers trains several models side by side."
        )
