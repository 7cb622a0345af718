"""Chains: one quantity through 2 to 4 events drawn from eight kinds, then one of four questions.

The structure varies as well as the numbers; some carry a sentence that does not matter.
"""

from __future__ import annotations

import random

from env_server.tasks.word_problems.draft import NAMES, Draft

THINGS = (
    ("marbles", "a jar", "marble"),
    ("stickers", "an album", "sticker"),
    ("seashells", "a basket", "seashell"),
    ("stamps", "a folder", "stamp"),
    ("apples", "a crate", "apple"),
    ("postcards", "a box", "postcard"),
    ("beads", "a pouch", "bead"),
    ("walnuts", "a sack", "walnut"),
    ("coins", "a drawer", "coin"),
    ("pencils", "a case", "pencil"),
    ("cookies", "a tin", "cookie"),
    ("buttons", "a bowl", "button"),
    ("tickets", "an envelope", "ticket"),
    ("bricks", "a shed", "brick"),
)
PERCENTS = (10, 20, 25, 40, 50, 75)


def chain(rng: random.Random) -> Draft:
    """One quantity through several events, then a question about what is left."""
    name, friend = rng.sample(NAMES, 2)
    things, place, thing = rng.choice(THINGS)
    count = rng.choice((24, 36, 40, 48, 60, 72, 80, 90, 96, 120, 144, 150, 180, 240))
    draft = Draft("chain")
    draft.say(f"{name} keeps {count} {things} in {place}.")
    events = rng.sample(EVENTS, rng.randint(2, 4))
    if rng.random() < 0.4:
        draft.say(rng.choice(DISTRACTORS).format(friend=friend, n=rng.randint(3, 30), thing=thing))
    for event in events:
        count = event(rng, draft, count, name, friend, things)
    return rng.choice(QUESTIONS)(rng, draft, count, name, things, thing)


DISTRACTORS = (
    "{friend}, who is {n} years old, lives next door.",
    "Each {thing} weighs about {n} grams.",
    "The house is number {n} on its street.",
    "It took {n} minutes to count them all.",
    "{friend} had waited {n} days for this.",
)


def _gain(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    n = rng.randint(6, 60)
    draft.say(rng.choice((f"Then {name} finds {n} more.", f"{friend} adds {n} {things} as a present.")))
    draft.work(f"With {n} more, {name} has {count} + {n} = {count + n} {things}.")
    return count + n


def _loss(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    n = rng.randint(2, max(3, count // 3))
    draft.say(rng.choice((f"{name} gives {n} of them to {friend}.", f"A careless moment costs {n} {things}.")))
    draft.work(f"After losing {n}, {name} has {count} - {n} = {count - n} {things}.")
    return count - n


def _packs(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    packs, each = rng.randint(2, 9), rng.randint(3, 12)
    draft.say(f"{name} buys {packs} packs with {each} {things} in each.")
    draft.work(
        f"The packs hold {packs} * {each} = {packs * each} {things}.",
        f"That makes {count} + {packs * each} = {count + packs * each} {things}.",
    )
    return count + packs * each


def _times(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    factor, word = rng.choice(((2, "doubles"), (3, "triples")))
    draft.say(f"Over the summer the collection {word}.")
    draft.work(f"The collection {word} to {factor} * {count} = {factor * count} {things}.")
    return factor * count


def _fraction(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    part, word = rng.choice(((2, "half"), (3, "a third"), (4, "a quarter"), (5, "a fifth")))
    if count % part:
        return _loss(rng, draft, count, name, friend, things)
    gone = count // part
    draft.say(f"{name} sells {word} of the {things}.")
    draft.work(
        f"{word.capitalize()} of {count} is {count} / {part} = {gone}.",
        f"So {count} - {gone} = {count - gone} {things} remain.",
    )
    return count - gone


def _percent(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    fitting = [p for p in PERCENTS if count * p % 100 == 0]
    if not fitting:
        return _gain(rng, draft, count, name, friend, things)
    p = rng.choice(fitting)
    gone = count * p // 100
    draft.say(f"{p}% of the {things} turn out to be damaged and are thrown away.")
    draft.work(
        f"The damaged part is {count} * {p} / 100 = {gone} {things}.",
        f"That leaves {count} - {gone} = {count - gone} {things}.",
    )
    return count - gone


def _compare(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    fewer = rng.randint(3, max(4, count // 2))
    theirs = max(count - fewer, 1)
    fewer = count - theirs
    draft.say(f"{friend} has {fewer} fewer {things} at this point, and the two put everything together.")
    draft.work(
        f"{friend} has {count} - {fewer} = {theirs} {things}.",
        f"Together they have {count} + {theirs} = {count + theirs} {things}.",
    )
    return count + theirs


def _daily(rng: random.Random, draft: Draft, count: int, name: str, friend: str, things: str) -> int:
    days, each = rng.randint(3, 10), rng.randint(2, 8)
    draft.say(f"For {days} days {name} adds {each} {things} a day.")
    draft.work(
        f"In {days} days that is {days} * {each} = {days * each} new {things}.",
        f"The total becomes {count} + {days * each} = {count + days * each}.",
    )
    return count + days * each


EVENTS = (_gain, _loss, _packs, _times, _fraction, _percent, _compare, _daily)


def _ask_left(rng: random.Random, draft: Draft, count: int, name: str, things: str, thing: str) -> Draft:
    draft.kind += "_left"
    draft.say(f"How many {things} are there in the end?")
    return draft.finish(count, "So in the end there are {} " + things + ".")


def _ask_worth(rng: random.Random, draft: Draft, count: int, name: str, things: str, thing: str) -> Draft:
    draft.kind += "_worth"
    price = rng.randint(2, 9)
    draft.say(f"If every {thing} is worth ${price}, how many dollars is the whole collection worth?")
    draft.work(f"At ${price} each the value is {count} * {price} = {count * price} dollars.")
    return draft.finish(count * price, "So the collection is worth {} dollars.")


def _ask_boxes(rng: random.Random, draft: Draft, count: int, name: str, things: str, thing: str) -> Draft:
    draft.kind += "_boxes"
    size = rng.choice((5, 6, 8, 10, 12))
    full, left = divmod(count, size)
    draft.say(f"{name} packs them in boxes of {size}. How many {things} do not fit in a full box?")
    draft.work(
        f"The full boxes take {full} * {size} = {full * size} {things}.",
        f"What does not fit is {count} - {full * size} = {left}.",
    )
    return draft.finish(left, "So {} " + things + " are left over.")


def _ask_goal(rng: random.Random, draft: Draft, count: int, name: str, things: str, thing: str) -> Draft:
    draft.kind += "_goal"
    goal = count + rng.randint(5, 90)
    draft.say(f"{name} wants to own {goal}. How many {things} are still missing?")
    draft.work(f"To reach {goal}, {goal} - {count} = {goal - count} more are needed.")
    return draft.finish(goal - count, "So {} " + things + " are missing.")


QUESTIONS = (_ask_left, _ask_worth, _ask_boxes, _ask_goal)
