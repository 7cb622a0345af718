"""Situations with money: purchases, wages, interest, profit, price changes, shares, ...

Each function draws its numbers so that every intermediate result is a whole number, and writes the solution
beside the text.
"""

from __future__ import annotations

import random

from env_server.tasks.word_problems.draft import NAMES, Draft, Template


def shopping(rng: random.Random) -> Draft:
    """Two kinds of goods, a discount, change from a note."""
    name = rng.choice(NAMES)
    (a, pa), (b, pb) = rng.sample((("notebook", 4), ("pen", 2), ("ruler", 3), ("atlas", 18), ("brush", 6)), 2)
    na, nb = rng.randint(2, 9), rng.randint(2, 9)
    pa, pb = pa * 5, pb * 5
    total = na * pa + nb * pb
    off = rng.choice([p for p in (10, 20, 40) if total * p % 100 == 0] or [0])
    saved = total * off // 100
    note = (total - saved) // 100 * 100 + 100
    draft = Draft("shopping")
    draft.say(f"In a shop a {a} costs {pa} crowns and a {b} costs {pb} crowns.")
    draft.say(f"{name} takes {na} of the first and {nb} of the second.")
    draft.work(
        f"The first kind costs {na} * {pa} = {na * pa} crowns.",
        f"The second kind costs {nb} * {pb} = {nb * pb} crowns.",
        f"Together that is {na * pa} + {nb * pb} = {total} crowns.",
    )
    if off:
        draft.say(f"The till takes {off}% off the whole purchase.")
        draft.work(f"After {off}% off, {total} - {total} * {off} / 100 = {total - saved} crowns are due.")
    draft.say(f"{name} pays with {note} crowns. How many crowns of change come back?")
    change = note - (total - saved)
    draft.work(f"The change is {note} - {total - saved} = {change} crowns.")
    return draft.finish(change, "So {} crowns come back.")


def shares(rng: random.Random) -> Draft:
    """A ratio, and the difference of two shares."""
    a, b, c = rng.sample(NAMES, 3)
    x, y, z = rng.sample(range(2, 10), 3)
    unit = rng.randint(5, 40)
    total, parts = unit * (x + y + z), x + y + z
    draft = Draft("shares")
    draft.say(f"{a}, {b} and {c} share {total} euros in the ratio {x}:{y}:{z}, in this order.")
    who, most = (a, x) if x > y else (b, y)
    other, least = (b, y) if x > y else (a, x)
    draft.say(f"How many euros more than {other} does {who} get?")
    draft.work(
        f"There are {x} + {y} + {z} = {parts} parts.",
        f"One part is {total} / {parts} = {unit} euros.",
        f"{who} gets {most} * {unit} = {most * unit} euros.",
        f"{other} gets {least} * {unit} = {least * unit} euros.",
        f"The difference is {most * unit} - {least * unit} = {(most - least) * unit} euros.",
    )
    return draft.finish((most - least) * unit, "So " + who + " gets {} euros more.")


def fence(rng: random.Random) -> Draft:
    """A rectangle, and what its fence or its lawn costs."""
    name, long, wide, price = rng.choice(NAMES), rng.randint(15, 60), rng.randint(6, 14), rng.randint(3, 12)
    gate = rng.randint(2, 5)
    draft = Draft("fence")
    draft.say(f"{name}'s garden is a rectangle of {long} m by {wide} m.")
    if rng.random() < 0.5:
        rim = 2 * (long + wide)
        draft.say(f"A fence goes all around, except for a gate of {gate} m.")
        draft.say(f"It costs ${price} per metre. How many dollars does the fence cost?")
        draft.work(
            f"The way around is 2 * ({long} + {wide}) = {rim} m.",
            f"Without the gate {rim} - {gate} = {rim - gate} m are fenced.",
            f"The fence costs {rim - gate} * {price} = {(rim - gate) * price} dollars.",
        )
        return draft.finish((rim - gate) * price, "So the fence costs {} dollars.")
    bed, area = gate * gate, long * wide
    draft.say(f"A square bed with sides of {gate} m is planted; the rest becomes lawn at ${price} per square metre.")
    draft.say("How many dollars does the lawn cost?")
    draft.work(
        f"The garden covers {long} * {wide} = {area} square metres.",
        f"The bed takes {gate} * {gate} = {bed} square metres.",
        f"The lawn covers {area} - {bed} = {area - bed} square metres.",
        f"It costs {area - bed} * {price} = {(area - bed) * price} dollars.",
    )
    return draft.finish((area - bed) * price, "So the lawn costs {} dollars.")


def interest(rng: random.Random) -> Draft:
    """Simple interest, then a withdrawal."""
    name, capital = rng.choice(NAMES), rng.randint(4, 40) * 100
    rate, years = rng.randint(2, 8), rng.randint(2, 6)
    yearly, spent = capital * rate // 100, rng.randint(50, 350)
    total = capital + yearly * years
    draft = Draft("interest")
    draft.say(f"{name} puts {capital} euros in the bank at {rate}% simple interest a year.")
    draft.say(f"After {years} years {name} takes out {spent} euros. How many euros are left in the bank?")
    draft.work(
        f"One year brings {capital} * {rate} / 100 = {yearly} euros.",
        f"In {years} years that is {yearly} * {years} = {yearly * years} euros.",
        f"The account then holds {capital} + {yearly * years} = {total} euros.",
        f"After the withdrawal {total} - {spent} = {total - spent} euros are left.",
    )
    return draft.finish(total - spent, "So {} euros are left.")


def seats(rng: random.Random) -> Draft:
    """Two kinds of tickets and a known total of heads: the classical substitution."""
    adult, child = rng.randint(9, 18), rng.randint(3, 8)
    adults, children = rng.randint(5, 60), rng.randint(5, 60)
    people, money = adults + children, adults * adult + children * child
    draft = Draft("seats")
    draft.say(f"A theatre sells adult tickets for ${adult} and child tickets for ${child}.")
    draft.say(f"One evening {people} people come and pay ${money} in all. How many of them are adults?")
    draft.work(
        f"If all were children they would pay {people} * {child} = {people * child} dollars.",
        f"The extra money is {money} - {people * child} = {money - people * child} dollars.",
        f"Each adult pays {adult} - {child} = {adult - child} dollars more than a child.",
        f"So there are {money - people * child} / {adult - child} = {adults} adults.",
    )
    return draft.finish(adults, "So {} of them are adults.")


def recipe(rng: random.Random) -> Draft:
    """Scale a recipe, take away what is in the cupboard."""
    name, people, factor = rng.choice(NAMES), rng.randint(2, 6), rng.randint(2, 6)
    each, guests = rng.randint(30, 90), people * factor
    what, base = rng.choice(("flour", "rice", "sugar", "oats")), each * people
    have = rng.randint(10, base)
    draft = Draft("recipe")
    draft.say(f"A recipe for {people} people needs {base} g of {what}.")
    draft.say(f"{name} cooks for {guests} people and has {have} g. How many grams of {what} must be bought?")
    draft.work(
        f"One person needs {base} / {people} = {each} g.",
        f"For {guests} people {each} * {guests} = {each * guests} g are needed.",
        f"To buy remain {each * guests} - {have} = {each * guests - have} g.",
    )
    return draft.finish(each * guests - have, "So {} g must be bought.")


def plan(rng: random.Random) -> Draft:
    """A flat fee with some units free, several months."""
    name, fee, free = rng.choice(NAMES), rng.randint(8, 30), rng.choice((50, 60, 100, 120))
    price, used, months = rng.randint(2, 5), free + rng.randint(4, 60), rng.randint(2, 6)
    extra = used - free
    month = fee + extra * price
    draft = Draft("plan")
    draft.say(f"A phone plan costs {fee} euros a month with {free} minutes free; one more costs {price} euros.")
    draft.say(f"{name} talks {used} minutes every month. How many euros does {name} pay in {months} months?")
    draft.work(
        f"Each month {used} - {free} = {extra} minutes are not free.",
        f"They cost {extra} * {price} = {extra * price} euros.",
        f"With the fee a month costs {fee} + {extra * price} = {month} euros.",
        f"In {months} months that is {month} * {months} = {month * months} euros.",
    )
    return draft.finish(month * months, "So " + name + " pays {} euros.")


def overtime(rng: random.Random) -> Draft:
    """A week's pay with overtime, less a deduction."""
    name, pay, usual = rng.choice(NAMES), rng.randint(5, 16) * 2, rng.choice((30, 35, 38, 40))
    over, rent = rng.randint(2, 12), rng.randint(20, 150)
    high = pay * 3 // 2
    gross = pay * usual + high * over
    draft = Draft("overtime")
    draft.say(f"{name} earns ${pay} an hour for {usual} hours a week; overtime pays one and a half times as much.")
    draft.say(f"This week {name} worked {usual + over} hours and paid ${rent} in fees. How many dollars remain?")
    draft.work(
        f"The usual hours bring {pay} * {usual} = {pay * usual} dollars.",
        f"Overtime is {usual + over} - {usual} = {over} hours.",
        f"An hour of overtime pays {pay} * 3 / 2 = {high} dollars.",
        f"Overtime brings {high} * {over} = {high * over} dollars.",
        f"After the fees {pay * usual} + {high * over} - {rent} = {gross - rent} dollars remain.",
    )
    return draft.finish(gross - rent, "So {} dollars remain.")


def profit(rng: random.Random) -> Draft:
    """Bought in bulk, some spoiled, the rest sold."""
    name, boxes, each = rng.choice(NAMES), rng.randint(3, 12), rng.choice((10, 12, 20, 24))
    fruit, price = rng.choice(("melons", "mangoes", "pears", "plums")), rng.randint(2, 6)
    spoiled = rng.randint(1, boxes)
    sold = boxes * each - spoiled
    cost = rng.randint(each // 2, max(each // 2, sold * price // boxes - 1))
    draft = Draft("profit")
    draft.say(f"{name} buys {boxes} boxes of {each} {fruit} at ${cost} a box.")
    draft.say(f"{spoiled} of the {fruit} spoil; the rest sell for ${price} each. How many dollars are gained?")
    draft.work(
        f"The boxes cost {boxes} * {cost} = {boxes * cost} dollars.",
        f"They hold {boxes} * {each} = {boxes * each} {fruit}.",
        f"After spoilage {boxes * each} - {spoiled} = {sold} {fruit} are sold.",
        f"The sales bring {sold} * {price} = {sold * price} dollars.",
        f"The profit is {sold * price} - {boxes * cost} = {sold * price - boxes * cost} dollars.",
    )
    return draft.finish(sold * price - boxes * cost, "So the profit is {} dollars.")


def buses(rng: random.Random) -> Draft:
    """Groups that fill vehicles; rounding up."""
    classes, each, adults = rng.randint(3, 9), rng.randint(18, 31), rng.randint(3, 9)
    size, rent = rng.choice((20, 25, 30, 40, 50)), rng.randint(8, 30) * 10
    people = classes * each + adults
    full, rest = divmod(people, size)
    needed = full + (rest > 0)
    draft = Draft("buses")
    draft.say(f"{classes} classes of {each} pupils and {adults} teachers travel in buses for {size} people.")
    draft.say(f"One bus costs {rent} euros. How many euros do the buses cost?")
    draft.work(
        f"There are {classes} * {each} = {classes * each} pupils.",
        f"With the teachers {classes * each} + {adults} = {people} people travel.",
        f"Full buses take {full} * {size} = {full * size} people, {people} - {full * size} = {rest} more go.",
        f"So {needed} buses are needed, which cost {needed} * {rent} = {needed * rent} euros.",
    )
    return draft.finish(needed * rent, "So the buses cost {} euros.")


def price_change(rng: random.Random) -> Draft:
    """Up by a percentage, then down by another, of the new price."""
    thing, price = rng.choice(("bicycle", "sofa", "camera", "tent", "guitar")), rng.randint(2, 30) * 100
    up, down = rng.choice((10, 20, 30, 50)), rng.choice((10, 20, 40, 50))
    high = price + price * up // 100
    low = high - high * down // 100
    draft = Draft("price_change")
    draft.say(f"A {thing} costs {price} euros. In spring its price rises by {up}%,")
    draft.say(f"and in autumn the new price falls by {down}%. How many euros does the {thing} cost then?")
    draft.work(
        f"The rise is {price} * {up} / 100 = {high - price} euros.",
        f"The spring price is {price} + {high - price} = {high} euros.",
        f"The fall is {high} * {down} / 100 = {high - low} euros.",
        f"The autumn price is {high} - {high - low} = {low} euros.",
    )
    return draft.finish(low, "So the " + thing + " costs {} euros.")


def savings(rng: random.Random) -> Draft:
    """A goal, a start, income and spending per week."""
    name, start, income = rng.choice(NAMES), rng.randint(10, 80), rng.randint(15, 60)
    spend, weeks = rng.randint(3, 12), rng.randint(3, 15)
    kept = income - spend
    goal = start + kept * weeks
    wish = rng.choice(("a telescope", "a keyboard", "a kayak", "a microscope"))
    draft = Draft("savings")
    draft.say(f"{name} saves for {wish} that costs {goal} euros and has {start} euros.")
    draft.say(f"Every week {name} earns {income} euros and spends {spend}. How many weeks does it take?")
    draft.work(
        f"Still missing are {goal} - {start} = {goal - start} euros.",
        f"A week leaves {income} - {spend} = {kept} euros.",
        f"The missing sum is saved in {goal - start} / {kept} = {weeks} weeks.",
    )
    return draft.finish(weeks, "So it takes {} weeks.")


MONEY: tuple[Template, ...] = (
    shopping,
    shares,
    fence,
    interest,
    seats,
    recipe,
    plan,
    overtime,
    profit,
    buses,
    price_change,
    savings,
)
