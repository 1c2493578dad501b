"""The queue of an AI worker: what becomes a batch, and when."""

from __future__ import annotations

import asyncio
import threading

from rhapsody.inference.worker_model import Prompt
from rhapsody.inference.worker_queue import Job, Kind, Queue, Streaming

HOUR_S = 3600.0


def job(kind: Kind = Kind.GENERATE, text: str = "") -> Job:
    prompt = Prompt(text)
    return Job(kind, prompt, asyncio.get_running_loop().create_future(), Streaming(prompt))


async def test_a_batch_is_full_at_most_and_in_the_order_in_which_prompts_came() -> None:
    queue = Queue(max_batch=3, max_wait_s=HOUR_S)
    jobs = [job() for _ in range(4)]

    queue.put(jobs)

    assert queue.take() == jobs[:3]
    assert len(queue) == 1


async def test_a_batch_that_is_not_full_waits_for_more_no_longer_than_it_should() -> None:
    queue = Queue(max_batch=3, max_wait_s=0.01)
    only = job()

    queue.put([only])

    assert await asyncio.to_thread(queue.take) == [only]


async def test_a_batch_takes_in_what_comes_while_it_waits() -> None:
    queue = Queue(max_batch=2, max_wait_s=HOUR_S)
    first, second = job(), job()
    taken: list[Job] = []
    taker = threading.Thread(target=lambda: taken.extend(queue.take()))
    queue.put([first])

    taker.start()
    queue.put([second])
    await asyncio.to_thread(taker.join, 5)

    assert taken == [first, second]


async def test_a_batch_is_of_one_kind_and_the_others_keep_their_places() -> None:
    queue = Queue(max_batch=3, max_wait_s=0)
    embed, generate, embed_again, generate_again = (
        job(kind) for kind in (Kind.EMBED, Kind.GENERATE, Kind.EMBED, Kind.GENERATE)
    )

    queue.put([embed, generate, embed_again, generate_again])

    assert queue.take() == [embed, embed_again]
    assert queue.take() == [generate, generate_again]


async def test_a_part_of_a_stream_does_not_wait_for_others() -> None:
    queue = Queue(max_batch=3, max_wait_s=HOUR_S)
    step = job(Kind.STEP)

    queue.put([step])

    assert queue.take() == [step]


async def test_what_was_dropped_is_never_taken() -> None:
    queue = Queue(max_batch=4, max_wait_s=0)
    dropped, kept = job(), job()
    queue.put([dropped, kept])

    queue.drop([dropped])
    queue.drop([dropped])

    assert queue.take() == [kept]


async def test_a_batch_all_of_which_is_dropped_as_it_waits_is_none() -> None:
    queue = Queue(max_batch=2, max_wait_s=0.05)
    dropped, later = job(), job()
    taken: list[Job] = []
    queue.put([dropped])
    taker = threading.Thread(target=lambda: taken.extend(queue.take()))

    taker.start()
    queue.drop([dropped])
    queue.put([later])
    await asyncio.to_thread(taker.join, 5)

    assert taken == [later]


async def test_a_closed_queue_gives_what_it_has_and_then_nothing() -> None:
    queue = Queue(max_batch=4, max_wait_s=HOUR_S)
    last = job()
    queue.put([last])

    queue.close()

    assert queue.take() == [last]
    assert queue.take() == []
