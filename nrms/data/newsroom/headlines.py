"""How does the demo world write a headline?

A headline states four facts about a story: its sub-category (through nouns), its tone (through a verb and an adjective),
the person it is about, and a place that means nothing. Every fact but the person has several synonyms, so two stories with
the same facts may share no word: counting words is not enough, reading is.
The words are plain data; the people are invented from syllables, and none of them is real.
"""

import numpy as np

TOPICS = (  # category, sub-category, nouns
    ("sports", "football", "touchdown quarterback goalpost linebacker playoff midfield huddle kickoff"),
    ("sports", "tennis", "racket baseline tiebreak volley backhand grandslam serve doubles"),
    ("sports", "cycling", "peloton sprint saddle climb breakaway velodrome yellow-jersey descent"),
    ("sports", "swimming", "freestyle lane relay butterfly medley backstroke pool lap"),
    ("finance", "markets", "stocks bond index dividend trader futures rally hedge"),
    ("finance", "housing", "mortgage rent landlord listing lease downpayment suburb foreclosure"),
    ("finance", "startups", "founder funding valuation unicorn prototype investor incubator pitch"),
    ("finance", "careers", "salary resume hiring layoff promotion union overtime commute"),
    ("health", "nutrition", "protein vitamin sugar fiber cholesterol breakfast calorie fasting"),
    ("health", "medicine", "vaccine surgeon clinic antibiotic dosage trial diagnosis infection"),
    ("health", "fitness", "treadmill yoga stretching marathon squat dumbbell cardio posture"),
    ("health", "sleep", "insomnia pillow nap snoring bedtime dream mattress melatonin"),
    ("travel", "beaches", "island snorkel lagoon coral boardwalk surf palm sandbar"),
    ("travel", "cities", "skyline museum subway rooftop cathedral market hostel tram"),
    ("travel", "mountains", "summit ridge glacier cabin trail avalanche gondola valley"),
    ("travel", "flights", "runway airline layover cockpit luggage turbulence upgrade terminal"),
    ("food", "baking", "sourdough pastry oven frosting yeast croissant brownie muffin"),
    ("food", "grilling", "brisket charcoal ribs marinade smoker skewer burger barbecue"),
    ("food", "drinks", "espresso cocktail winery brewery lemonade barista cider teapot"),
    ("food", "dining", "bistro chef tasting menu waiter reservation buffet diner"),
    ("science", "space", "rocket telescope asteroid orbit lander comet galaxy astronaut"),
    ("science", "animals", "whale panda falcon wolf turtle penguin elephant otter"),
    ("science", "climate", "drought hurricane emission wildfire flood heatwave reef permafrost"),
    ("science", "physics", "laser particle magnet quantum reactor neutrino superconductor collider"),
    ("politics", "elections", "ballot primary candidate turnout recount debate swing-state poll"),
    ("politics", "courts", "judge verdict appeal jury lawsuit ruling hearing subpoena"),
    ("politics", "diplomacy", "embassy treaty summit-talks ambassador sanction ceasefire border envoy"),
    ("politics", "budgets", "deficit tax subsidy spending audit pension tariff stimulus"),
    ("movies", "comedy", "sitcom standup punchline parody sketch prank spoof roast"),
    ("movies", "thriller", "heist detective hostage spy alibi conspiracy fugitive cliffhanger"),
    ("movies", "animation", "cartoon storyboard voiceover pixel anime puppet sidekick stop-motion"),
    ("movies", "awards", "nominee redcarpet trophy speech gown critic snub statuette"),
    ("autos", "electric", "charger battery range plug hatchback kilowatt autopilot hybrid"),
    ("autos", "classics", "chrome roadster carburetor restoration convertible fender auction coupe"),
    ("autos", "racing", "pitstop podium lap-record chicane turbo qualifying throttle helmet"),
    ("autos", "trucks", "pickup trailer diesel payload towing flatbed axle tailgate"),
    ("lifestyle", "weddings", "bride bouquet honeymoon proposal veil reception vows bridesmaid"),
    ("lifestyle", "parenting", "toddler nursery stroller homework tantrum playground babysitter lullaby"),
    ("lifestyle", "gardening", "tulip compost greenhouse orchard seedling pruning rosebush mulch"),
    ("lifestyle", "fashion", "runway-show denim handbag sneaker tailor stylist scarf sequin"),
)

TONES = {  # tone: (verbs, adjectives)
    "alarm": ("warns fears threatens panics dreads", "deadly grim alarming dire perilous"),
    "triumph": ("wins conquers triumphs prevails shines", "record heroic stunning glorious golden"),
    "wonder": ("discovers reveals uncovers finds spots", "mysterious rare strange hidden unseen"),
    "advice": ("explains recommends teaches suggests advises", "simple smart practical proven easy"),
    "gossip": ("flirts admits whispers teases confesses", "secret juicy scandalous steamy shocking"),
    "anger": ("slams blasts attacks mocks rejects", "bitter furious ugly heated outrageous"),
}

PLACES = "Norhaven Eastbrook Calder Westmere Dunmoor Larkfield Stonebay Ashford Millrun Greyport Oakdale Fernhill".split()

PATTERNS = (
    "{name} {verb} {adj} {noun} before {other} in {place}",
    "{adj} {noun} as {name} {verb} over the {other}",
    "How {name} {verb}: the {adj} {noun} and a {other}",
    "In {place}, {name} {verb} after {adj} {noun} and {other}",
    "{noun} and {other}: why {name} {verb} about a {adj} day",
    "'{adj}': {name} {verb} on {noun}, {other} and {place}",
    "{number} {adj} facts about {noun} and {other}, {name} {verb}",
    "Watch {name}: {noun} {verb} the {adj} {other} this week in {place}",
)

NOUNS = [nouns.split() for *_, nouns in TOPICS]  # by sub-category
VERBS, ADJECTIVES = ([words[i].split() for words in TONES.values()] for i in (0, 1))  # by tone


def invent_people(count: int, rng: np.random.Generator) -> list[str]:
    """`count` different two-word names of people who do not exist."""
    starts, ends = "Ba Cor Del El Fin Gra Hol Jor Kel Mar Nor Or Pel Ros Sel Tor".split(), "dan las mir nek ros tan vik win".split()
    words = [start + middle + end for start in starts for middle in "aeiou" for end in ends]
    first, last = rng.permutation(words), rng.permutation(words)
    return [f"{first[i]} {last[(i * 7 + i // len(words)) % len(words)]}" for i in range(count)]


def write_titles(sub: np.ndarray, tone: np.ndarray, people: list[str], person: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One headline per story, from its sub-category, tone and person (each an integer array of the same length)."""
    draws = rng.integers(0, 1 << 30, (len(sub), 6)).tolist()
    titles = []
    for s, m, p, (a, b, c, d, e, f) in zip(sub.tolist(), tone.tolist(), person.tolist(), draws, strict=True):
        nouns, verbs, adjectives = NOUNS[s], VERBS[m], ADJECTIVES[m]
        first = a % len(nouns)
        title = PATTERNS[b % len(PATTERNS)].format(
            name=people[p],
            noun=nouns[first],
            other=nouns[(first + 1 + c % (len(nouns) - 1)) % len(nouns)],
            verb=verbs[d % len(verbs)],
            adj=adjectives[e % len(adjectives)],
            place=PLACES[f % len(PLACES)],
            number=3 + f % 17,
        )
        titles.append(title[0].upper() + title[1:])
    return titles


def write_abstracts(sub: np.ndarray, tone: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One short sentence per story with more words of its sub-category and tone; one story in twenty has none, as in MIND."""
    draws = rng.integers(0, 1 << 30, (len(sub), 5)).tolist()
    return [
        "" if e % 20 == 0 else f"What {VERBS[m][c % 5]} here is {ADJECTIVES[m][d % 5]}: more about {NOUNS[s][a % 8]} and {NOUNS[s][b % 8]}."
        for s, m, (a, b, c, d, e) in zip(sub.tolist(), tone.tolist(), draws, strict=True)
    ]
