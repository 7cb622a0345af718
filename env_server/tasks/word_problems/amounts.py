"""Situations without money: travel, work, tanks, ages, averages, mixtures, comparisons, ...

Each function draws its numbers so that every intermediate result is a whole number, and writes the solution
beside the text.
"""

from __future__ import annotations

import random

from env_server.tasks.word_problems.draft import NAMES, Draft, Template


def travel(rng: random.Random) -> Draft:
    """Two legs at different speeds, with a rest; how long or how far."""
    name, v1, v2 = rng.choice(NAMES), rng.randint(8, 30) * 2, rng.randint(8, 30) * 2
    t1, t2, rest = rng.randint(2, 5), rng.randint(2, 5), rng.choice((15, 30, 45))
    d1, d2 = v1 * t1, v2 * t2
    draft = Draft("travel")
    draft.say(f"{name} drives for {t1} hours at {v1} km per hour, rests for {rest} minutes,")
    draft.say(f"and drives another {t2} hours at {v2} km per hour.")
    draft.work(f"The first leg is {t1} * {v1} = {d1} km.", f"The second leg is {t2} * {v2} = {d2} km.")
    if rng.random() < 0.5:
        draft.say("How many kilometres is the whole trip?")
        draft.work(f"Both legs make {d1} + {d2} = {d1 + d2} km.")
        return draft.finish(d1 + d2, "So the trip is {} km long.")
    draft.say("By how many kilometres do the two legs differ?")
    longer, shorter = max(d1, d2), min(d1, d2)
    draft.work(f"The difference is {longer} - {shorter} = {longer - shorter} km.")
    return draft.finish(longer - shorter, "So the legs differ by {} km.")


def meeting(rng: random.Random) -> Draft:
    """Two travellers towards each other."""
    a, b = rng.sample(NAMES, 2)
    v1, v2, hours = rng.randint(4, 40), rng.randint(4, 40), rng.randint(2, 6)
    apart = (v1 + v2) * hours
    draft = Draft("meeting")
    draft.say(f"{a} and {b} start {apart} km apart and ride towards each other,")
    draft.say(f"{a} at {v1} km per hour and {b} at {v2} km per hour.")
    draft.say(f"How many kilometres has {a} ridden when they meet?")
    draft.work(
        f"Each hour the gap shrinks by {v1} + {v2} = {v1 + v2} km.",
        f"They meet after {apart} / {v1 + v2} = {hours} hours.",
        f"In that time {a} rides {v1} * {hours} = {v1 * hours} km.",
    )
    return draft.finish(v1 * hours, "So " + a + " has ridden {} km.")


def ages(rng: random.Random) -> Draft:
    """A multiple, a difference, then some years on."""
    a, b, c = rng.sample(NAMES, 3)
    young, factor, gap, years = rng.randint(4, 15), rng.randint(2, 4), rng.randint(2, 9), rng.randint(3, 12)
    middle, old = young * factor, young * factor + gap
    draft = Draft("ages")
    draft.say(f"{a} is {young} years old. {b} is {factor} times as old as {a},")
    draft.say(f"and {c} is {gap} years older than {b}. How old will the three be together in {years} years?")
    draft.work(
        f"{b} is {factor} * {young} = {middle} years old.",
        f"{c} is {middle} + {gap} = {old} years old.",
        f"Today they are {young} + {middle} + {old} = {young + middle + old} years old together.",
        f"In {years} years each gains {years}, so 3 * {years} = {3 * years} years are added.",
        f"Then the sum is {young + middle + old} + {3 * years} = {young + middle + old + 3 * years}.",
    )
    return draft.finish(young + middle + old + 3 * years, "So together they will be {} years old.")


def average(rng: random.Random) -> Draft:
    """What the last score must be."""
    name, n = rng.choice(NAMES), rng.randint(3, 5)
    target = rng.randint(70, 88)
    scores = [target + rng.randint(-9, 6) for _ in range(n)]
    need = target * (n + 1) - sum(scores)
    draft = Draft("average")
    draft.say(f"{name} has scored {', '.join(map(str, scores))} in {n} tests.")
    draft.say(f"What must the next score be for the average of all {n + 1} tests to be {target}?")
    draft.work(
        f"For {n + 1} tests with average {target} the sum must be {n + 1} * {target} = {target * (n + 1)}.",
        f"So far the sum is {' + '.join(map(str, scores))} = {sum(scores)}.",
        f"The next test must bring {target * (n + 1)} - {sum(scores)} = {need}.",
    )
    return draft.finish(need, "So the next score must be {}.")


def tank(rng: random.Random) -> Draft:
    """Filling against a leak, with something in it already."""
    rate_in, rate_out = rng.randint(12, 40), rng.randint(2, 10)
    minutes, start = rng.randint(6, 30), rng.randint(10, 90)
    gain = rate_in - rate_out
    full = start + gain * minutes
    draft = Draft("tank")
    draft.say(f"A tank of {full} litres already holds {start} litres.")
    draft.say(f"A pump adds {rate_in} litres a minute while a leak loses {rate_out} litres a minute.")
    draft.say("After how many minutes is the tank full?")
    draft.work(
        f"The tank still needs {full} - {start} = {full - start} litres.",
        f"Every minute it gains {rate_in} - {rate_out} = {gain} litres.",
        f"That takes {full - start} / {gain} = {minutes} minutes.",
    )
    return draft.finish(minutes, "So the tank is full after {} minutes.")


def machines(rng: random.Random) -> Draft:
    """Output per machine and hour, scaled to another crew."""
    m1, h1, rate = rng.randint(2, 6), rng.randint(2, 8), rng.randint(5, 25)
    m2, h2 = rng.randint(3, 9), rng.randint(2, 9)
    made, thing = m1 * h1 * rate, rng.choice(("lamps", "chairs", "shirts", "valves", "toys"))
    draft = Draft("machines")
    draft.say(f"{m1} machines make {made} {thing} in {h1} hours, all at the same speed.")
    draft.say(f"How many {thing} do {m2} such machines make in {h2} hours?")
    draft.work(
        f"One hour of all {m1} machines gives {made} / {h1} = {made // h1} {thing}.",
        f"One machine makes {made // h1} / {m1} = {rate} {thing} an hour.",
        f"With {m2} machines that is {rate} * {m2} = {rate * m2} {thing} an hour.",
        f"In {h2} hours they make {rate * m2} * {h2} = {rate * m2 * h2} {thing}.",
    )
    return draft.finish(rate * m2 * h2, "So they make {} " + thing + ".")


def mixture(rng: random.Random) -> Draft:
    """How much of the pure part two mixed drinks hold."""
    (p1, p2), l1, l2 = (
        rng.sample((10, 20, 30, 40, 50, 60), 2),
        rng.randint(2, 12) * 100,
        rng.randint(2, 12) * 100,
    )
    drink = rng.choice(("juice", "syrup", "vinegar", "milk"))
    a, b = l1 * p1 // 100, l2 * p2 // 100
    draft = Draft("mixture")
    draft.say(f"One jug holds {l1} ml of a drink with {p1}% {drink}, another {l2} ml of one with {p2}% {drink}.")
    draft.say(f"They are poured together. How many ml of the mixture are not {drink}?")
    draft.work(
        f"The first jug holds {l1} * {p1} / 100 = {a} ml of {drink}.",
        f"The second jug holds {l2} * {p2} / 100 = {b} ml of {drink}.",
        f"Together that is {a} + {b} = {a + b} ml of {drink}.",
        f"The whole mixture is {l1} + {l2} = {l1 + l2} ml.",
        f"The rest is {l1 + l2} - {a + b} = {l1 + l2 - a - b} ml.",
    )
    return draft.finish(l1 + l2 - a - b, "So {} ml are not " + drink + ".")


def reading(rng: random.Random) -> Draft:
    """A book at two speeds; how many days."""
    name, first, days1 = rng.choice(NAMES), rng.randint(8, 30), rng.randint(3, 7)
    faster, days2 = rng.randint(4, 20), rng.randint(2, 9)
    later = first + faster
    pages = first * days1 + later * days2
    draft = Draft("reading")
    draft.say(f"{name} reads a book of {pages} pages: {first} pages a day for the first {days1} days,")
    draft.say(f"then {faster} pages a day more than before. How many days does the whole book take?")
    draft.work(
        f"The first {days1} days cover {first} * {days1} = {first * days1} pages.",
        f"Then {pages} - {first * days1} = {pages - first * days1} pages remain.",
        f"The new pace is {first} + {faster} = {later} pages a day.",
        f"The rest takes {pages - first * days1} / {later} = {days2} days.",
        f"In all that is {days1} + {days2} = {days1 + days2} days.",
    )
    return draft.finish(days1 + days2, "So the book takes {} days.")


def working_together(rng: random.Random) -> Draft:
    """Two workers with different speeds and a head start."""
    a, b = rng.sample(NAMES, 2)
    ra, rb, alone, hours = rng.randint(4, 15), rng.randint(4, 15), rng.randint(2, 5), rng.randint(2, 7)
    total = ra * alone + (ra + rb) * hours
    work = rng.choice(("letters to fold", "boards to paint", "pots to fill", "parcels to wrap"))
    draft = Draft("working_together")
    draft.say(f"There are {total} {work}. {a} does {ra} an hour and {b} does {rb} an hour.")
    draft.say(f"{a} starts {alone} hours before {b}. How many hours does {a} work until all is done?")
    draft.work(
        f"Alone {a} does {ra} * {alone} = {ra * alone}.",
        f"Then {total} - {ra * alone} = {total - ra * alone} are left.",
        f"Together they do {ra} + {rb} = {ra + rb} an hour.",
        f"The rest takes {total - ra * alone} / {ra + rb} = {hours} hours.",
        f"{a} works {alone} + {hours} = {alone + hours} hours.",
    )
    return draft.finish(alone + hours, "So " + a + " works {} hours.")


def clock(rng: random.Random) -> Draft:
    """Minutes of repeated rounds, with breaks between them."""
    name, rounds, each, pause = rng.choice(NAMES), rng.randint(3, 9), rng.randint(6, 25), rng.randint(2, 5)
    sport = rng.choice(("swims", "runs", "rows", "skates"))
    total = rounds * each + (rounds - 1) * pause
    hours = -(-total // 60)
    draft = Draft("clock")
    draft.say(f"{name} {sport} {rounds} rounds of {each} minutes with a break of {pause} minutes between rounds.")
    draft.say(f"The hall is booked for {hours} hours. How many minutes are left at the end?")
    draft.work(
        f"The rounds take {rounds} * {each} = {rounds * each} minutes.",
        f"The {rounds - 1} breaks between them take {rounds - 1} * {pause} = {(rounds - 1) * pause} minutes.",
        f"In all that is {rounds * each} + {(rounds - 1) * pause} = {total} minutes.",
        f"The booking lasts {hours} * 60 = {hours * 60} minutes.",
        f"At the end {hours * 60} - {total} = {hours * 60 - total} minutes are left.",
    )
    return draft.finish(hours * 60 - total, "So {} minutes are left.")


def comparison(rng: random.Random) -> Draft:
    """A chain of times-as-many and more-than, resolved backwards from the last."""
    a, b, c, d = rng.sample(NAMES, 4)
    base, times, more, less = rng.randint(4, 25), rng.randint(2, 5), rng.randint(3, 20), rng.randint(1, 9)
    second, third = base * times, base * times + more
    first = third - less
    things = rng.choice(("goals", "points", "photos", "fish", "badges"))
    draft = Draft("comparison")
    draft.say(f"{a} has {less} {things} fewer than {b}, {b} has {more} more than {c},")
    draft.say(f"and {c} has {times} times as many as {d}, who has {base}.")
    draft.say(f"How many {things} do {a} and {d} have together?")
    draft.work(
        f"{c} has {base} * {times} = {second} {things}.",
        f"{b} has {second} + {more} = {third} {things}.",
        f"{a} has {third} - {less} = {first} {things}.",
        f"{a} and {d} have {first} + {base} = {first + base} {things}.",
    )
    return draft.finish(first + base, "So together they have {} " + things + ".")


def survey(rng: random.Random) -> Draft:
    """Percentages of a whole and of a part."""
    town, people = rng.choice(("a village", "a school", "a company", "a club")), rng.randint(2, 12) * 200
    p, q = rng.choice((20, 40, 50, 60, 75, 80)), rng.choice((10, 20, 25, 50))
    part = people * p // 100
    if part * q % 100:
        q = 50
    sub = part * q // 100
    draft = Draft("survey")
    draft.say(f"In {town} of {people} people, {p}% own a bicycle, and {q}% of those ride it every day.")
    draft.say("How many people own a bicycle but do not ride it every day?")
    draft.work(
        f"Bicycles are owned by {people} * {p} / 100 = {part} people.",
        f"Every day {part} * {q} / 100 = {sub} of them ride.",
        f"The others are {part} - {sub} = {part - sub} people.",
    )
    return draft.finish(part - sub, "So {} people own one but do not ride daily.")


AMOUNTS: tuple[Template, ...] = (
    travel,
    meeting,
    ages,
    average,
    tank,
    machines,
    mixture,
    reading,
    working_together,
    clock,
    comparison,
    survey,
)
