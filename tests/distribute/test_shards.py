import pytest

from parfocal.distribute.batch_job import this_job
from parfocal.distribute.shards import Shard, ShardError, parse_shard, shard_from_environment


def test_shards_are_counted_from_1_and_hold_every_item_once():
    shards = [parse_shard(f"{number}/3") for number in (1, 2, 3)]
    assert [str(shard) for shard in shards] == ["1/3", "2/3", "3/3"]
    assert [shard.select(range(8)) for shard in shards] == [(0, 3, 6), (1, 4, 7), (2, 5)]


@pytest.mark.parametrize("text", ["5/4", "0/4", "1/0", "0/0"])
def test_a_shard_that_does_not_exist_is_refused(text: str):
    with pytest.raises(ShardError, match=f"--shard {text}: there is no such shard; .* from 1"):
        parse_shard(text)


def test_the_message_says_which_shards_there_are():
    with pytest.raises(ShardError) as caught:
        parse_shard("5/4")
    assert str(caught.value) == (
        "--shard 5/4: there is no such shard; shards are counted from 1, so the first of 4 is 1/4 "
        "and the last 4/4."
    )


@pytest.mark.parametrize("text", ["", "3", "a/b", "-1/4", "1/4/2", "1.5/4", "²/4"])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(
        ShardError, match="give the number of the shard and of all shards, such as 3/8"
    ):
        parse_shard(text)


def test_a_process_begins_with_its_own_share_and_goes_on_with_the_next():
    assert Shard(1, 3).own_first("abcdefgh") == ("b", "e", "h", "c", "f", "a", "d", "g")


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4"}, None),  # no such index
        (
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "1",
            },
            "4/4",
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            "3/3",
        ),
        (  # --array=1,5,6
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "1",
            },
            None,
        ),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "2/2"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "1/2"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None),
        ({"RANK": "x", "WORLD_SIZE": "2"}, None),
    ],
)
def test_the_share_of_a_batch_job_is_recognized(environment: dict[str, str], shard: str | None):
    found = shard_from_environment(environment)
    assert (None if found is None else str(found)) == shard


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "12"}, "slurm 12"),
        (
            {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4"},
            "slurm 12_4",
        ),
        ({"PBS_JOBID": "7.server"}, "pbs 7.server"),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "2"}, "lsf 9_2"),
    ],
)
def test_the_batch_job_is_recognized(environment: dict[str, str], job: str):
    assert this_job(environment) == job
