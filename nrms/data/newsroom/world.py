"""Where do data with a known truth come from?

The demo world: readers with a taste, stories with facts, and clicks drawn from a stated utility. For reader u, story i, at time t

    utility = text_weight * taste_u . facts_i                     (what the headline says)
            + image_weight * eye_u . appeal_i                     (what only the picture shows; noise where there is none)
            - freshness_weight * log(1 + age / 12 hours)
            + Gumbel noise

Where there is no picture its appeal is still felt, for a reason that nobody sees: else stories with pictures would vary more and be clicked more, and
a model could learn that pictures are good without looking at any. As it is, to have a picture says nothing in itself.
The n stories of a slate with the highest utility are clicked: exactly n draws from a softmax, without replacement.
The world is written as an ordinary MIND folder (train/ and dev/ with news.tsv and behaviors.tsv, images/), plus truth.parquet: the terms of the
utility for every dev candidate that can be known. What these terms score is therefore the ceiling of what any model can reach.
Shape follows MIND-small (see REAL_MIND). Deliberately absent: sessions, position bias, trends.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nrms.config.parameters import World
from nrms.data.newsroom import headlines, rendered_images
from nrms.data.tables import Ragged
from nrms.runtime.progress import progress

DAY = 86_400
START = int(np.datetime64("2019-10-12T00:00:00", "s").astype(int))  # MIND's own first day
FACTS, APPEAL = 8, 2  # width of a story's text factors, and of its picture's
MEAN_TASTE = 0.15  # share of the variance of taste that all readers have in common
WINDOW = 2 * DAY  # a story is shown for two days; so a third of the dev day's stories are new that day
CHUNK = 20_000  # impressions whose utilities are computed at once: bounds memory

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
REAL_MIND = {  # counted on 5,000 impressions of the train part of MIND-small; statistics only
    "history length": (2, 7, 18, 40, 111, 201),
    "candidates per impression": (2, 10, 24, 52, 120, 159),
    "clicks per impression": (1, 1, 1, 2, 4, 6),
}


@dataclass
class Stories:
    """All stories, sorted by time of publication. n rows each."""

    published: np.ndarray  # int64 seconds
    exposure: np.ndarray  # how readily a story is shown, sums to 1
    sub: np.ndarray
    tone: np.ndarray
    person: np.ndarray
    factors: np.ndarray  # (n, FACTS + APPEAL), scaled by the weights of the utility
    visible: np.ndarray  # the same, but 0 for the appeal of stories without a picture
    appeal: np.ndarray  # (n, APPEAL) what a picture would show
    has_image: np.ndarray  # (n,) bool


@dataclass
class Slates:
    """Impressions: whom a slate was shown, when, its stories, and for each of them whether it was clicked."""

    user: np.ndarray
    time: np.ndarray
    stories: Ragged
    clicked: np.ndarray


def draw_stories(world: World, rng: np.random.Generator) -> Stories:
    n, subs, tones, people = world.news, len(headlines.TOPICS), len(headlines.TONES), 10 * 12
    category = np.arange(subs) // 4
    published = START + np.sort(np.where(rng.random(n) < 0.5, rng.random(n) * 28, 28 - 2 + rng.random(n) * 9) * DAY).astype(np.int64)
    published[0] = START  # so that there is always something to show
    exposure = np.exp(1.1 * rng.normal(size=n))
    sub, tone = rng.integers(subs, size=n), rng.integers(tones, size=n)
    person = category[sub] * 12 + rng.integers(12, size=n)  # twelve people for each category

    def part(count: int) -> np.ndarray:  # orthogonal enough directions of equal length, so that no seed is easier than another
        x = rng.normal(size=(count, FACTS))
        x -= x.mean(0)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    facts = 0.5 * part(10)[category[sub]] + 0.6 * part(subs)[sub] + 0.6 * part(tones)[tone] + 0.5 * part(people)[person]
    facts = (facts - facts.mean(0)) / np.sqrt(((facts - facts.mean(0)) ** 2).sum(1).mean())
    appeal = rng.uniform(-1, 1, (n, APPEAL)) * np.sqrt(3)  # variance 1
    has_image = rng.random(n) < world.image_share
    factors = np.hstack([world.text_weight * facts, world.image_weight * appeal / np.sqrt(APPEAL)]).astype(np.float32)
    visible = np.hstack([factors[:, :FACTS], factors[:, FACTS:] * has_image[:, None]])
    return Stories(published, exposure / exposure.sum(), sub, tone, person, factors, visible, appeal, has_image)


def draw_readers(world: World, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tastes (users, FACTS + APPEAL) and their common mean; every entry of a taste has variance 1."""
    mean = np.concatenate([x / np.linalg.norm(x) * np.sqrt(MEAN_TASTE * len(x)) for x in (rng.normal(size=FACTS), rng.normal(size=APPEAL))])
    deviation = rng.normal(size=(world.users, FACTS + APPEAL)) * np.sqrt(1 - MEAN_TASTE)
    return (mean + deviation).astype(np.float32), mean.astype(np.float32)


def freshness(world: World, stories: Stories, story: np.ndarray, time: np.ndarray) -> np.ndarray:
    return -world.freshness_weight * np.log1p((time - stories.published[story]) / (12 * 3600)).astype(np.float32)


def draw_exposed(stories: Stories, time: np.ndarray, count: np.ndarray, rng) -> np.ndarray:
    """For each of the times, `count` stories of the two days before it, with repeats, by exposure; flat. The latest, where two days hold none."""
    upto = np.concatenate([[0.0], np.cumsum(stories.exposure)])
    begin, end = (np.searchsorted(stories.published, t) for t in (time - WINDOW, time))
    begin = np.minimum(begin, end - 1)
    low, high = upto[begin], upto[end]
    point = np.repeat(low, count) + rng.random(count.sum()) * np.repeat(high - low, count)
    return np.clip(np.searchsorted(upto, point, side="right") - 1, np.repeat(begin, count), np.repeat(end - 1, count))


def draw_utility(world: World, stories: Stories, tastes: np.ndarray, user: np.ndarray, time: np.ndarray, story: np.ndarray, rng) -> np.ndarray:
    """The utility of each story for each user at each time, noise included. All arguments have one length."""
    utility = np.einsum("ij,ij->i", tastes[user], stories.factors[story]) + freshness(world, stories, story, time)
    return utility - np.log(np.maximum(rng.standard_exponential(len(story), dtype=np.float32), 1e-30))  # minus the log of an exponential is a Gumbel


def draw_slates(
    world: World, stories: Stories, tastes: np.ndarray, user: np.ndarray, time: np.ndarray, size: np.ndarray, clicks: np.ndarray, rng
) -> Slates:
    """Slates of `size` different stories (fewer where two days hold no more), and the `clicks` best of each by utility."""
    n, parts = len(stories.published), []
    for start in progress(range(0, len(user), CHUNK), "slates"):
        at = slice(start, start + CHUNK)
        row = np.repeat(np.arange(len(user[at])), 2 * size[at])  # twice too many, for repeats fall away
        row, story = np.divmod(np.unique(row * n + draw_exposed(stories, time[at], 2 * size[at], rng)), n)
        story = story[np.argsort(row + rng.random(len(row)))]  # MIND shuffles the candidates of an impression
        fits = rank_within(row) < size[at][row]
        row, story = row[fits], story[fits]
        utility = draw_utility(world, stories, tastes, user[at][row], time[at][row], story, rng)
        length = np.bincount(row, minlength=len(user[at]))
        best = np.lexsort((-utility, row))
        clicked = np.zeros(len(row), bool)
        clicked[best] = rank_within(row) < np.minimum(clicks[at], np.maximum(length - 1, 1))[row]
        parts.append((story.astype(np.int32), length, clicked))
    story, length, clicked = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Slates(user, time, Ragged.of(story, length), clicked)


def rank_within(row: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values of the sorted array `row`."""
    return np.arange(len(row)) - np.searchsorted(row, np.arange(row[-1] + 1 if len(row) else 0))[row]


def draw_impressions(world: World, stories: Stories, tastes: np.ndarray, count: int, days: tuple[float, float], rng) -> Slates:
    """`count` impressions at times within `days` (from, to) of the last week, sorted by time; lengths and clicks follow MIND."""
    hour = np.array([27, 58, 56, 83, 174, 256, 359, 394, 424, 354, 367, 398, 354, 322, 255, 195, 211, 174, 148, 118, 97, 88, 52, 36], float)
    seconds = rng.choice(24, size=count, p=hour / hour.sum()) * 3600 + rng.integers(3600, size=count)
    time = np.sort(START + 28 * DAY + (rng.integers(*days, size=count) * DAY + seconds).astype(np.int64))
    active = np.exp(0.9 * rng.normal(size=world.users))
    user = rng.choice(world.users, size=count, p=active / active.sum())
    size = np.clip(np.exp(rng.normal(np.log(25), 1.0, count)), 2, 300).astype(int)
    clicks = 1 + (rng.random(count) < 0.275) * (1 + rng.poisson(0.85, count))
    return draw_slates(world, stories, tastes, user, time, size, clicks, rng)


def draw_histories(world: World, stories: Stories, tastes: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clicks of the four weeks before: (user, time, story), the best of 20 stories each time; one reader in fifty has none."""
    length = np.where(rng.random(world.users) < 0.021, 0, np.clip(np.exp(rng.normal(np.log(19), 1.08, world.users)), 1, 425)).astype(int)
    user = np.repeat(np.arange(world.users), length)
    time = START + 2 * DAY + (rng.random(len(user)) * 26 * DAY).astype(np.int64)
    clicked = np.empty(len(user), np.int64)
    for start in progress(range(0, len(user), 10 * CHUNK), "histories"):
        at = slice(start, start + 10 * CHUNK)
        story = draw_exposed(stories, time[at], np.full(len(user[at]), 20), rng)
        utility = draw_utility(world, stories, tastes, np.repeat(user[at], 20), np.repeat(time[at], 20), story, rng)
        clicked[at] = story.reshape(-1, 20)[np.arange(len(user[at])), utility.reshape(-1, 20).argmax(1)]
    return user, time, clicked


def read_tastes(stories: Stories, mean: np.ndarray, users: int, user: np.ndarray, story: np.ndarray) -> np.ndarray:
    """What the best reader of histories knows: the posterior mean (users, D) of every taste, given the true factors of the clicked stories.

    Gaussian prior; a click on i has likelihood softmax(taste . factors_i) over everything shown, and the log of its normaliser is
    taken to second order (mean and covariance of the shown factors), which makes the posterior Gaussian too.
    """
    x, w = stories.visible.astype(np.float64), stories.exposure
    centre = w @ x
    covariance = ((x - centre) * w[:, None]).T @ (x - centre)
    count = np.bincount(user, minlength=users)
    pull = np.stack([np.bincount(user, (x[story] - centre)[:, d], minlength=users) for d in range(x.shape[1])], 1)  # (users, D)
    precision = np.eye(x.shape[1]) / (1 - MEAN_TASTE) + count[:, None, None] * covariance
    return np.linalg.solve(precision, (pull + mean / (1 - MEAN_TASTE))[..., None])[..., 0].astype(np.float32)


def write_truth(path: Path, world: World, stories: Stories, dev: Slates, tastes: np.ndarray, estimates: np.ndarray) -> None:
    """truth.parquet: for every dev impression the terms of the utility of its candidates, and the history reader's estimate of their sum."""
    row = dev.stories.rows
    columns = {name: np.empty(len(row), np.float32) for name in ("text", "image", "freshness", "history")}
    for a in range(0, len(row), 1 << 20):
        part = slice(a, a + (1 << 20))
        story, user = dev.stories.values[part], dev.user[row[part]]
        x = stories.visible[story]
        columns["text"][part] = np.einsum("ij,ij->i", tastes[user, :FACTS], x[:, :FACTS])
        columns["image"][part] = np.einsum("ij,ij->i", tastes[user, FACTS:], x[:, FACTS:])
        columns["freshness"][part] = freshness(world, stories, story, dev.time[row[part]])
        columns["history"][part] = np.einsum("ij,ij->i", estimates[user], x) + columns["freshness"][part]
    lists = {name: pa.ListArray.from_arrays(dev.stories.offsets, values) for name, values in columns.items()}
    pq.write_table(pa.table({"impression": np.arange(1, len(dev.user) + 1).astype(str), **lists}), path, compression="zstd")


def joined(words: pa.Array, offsets: np.ndarray) -> pa.Array:
    """The words of each row in one string, with spaces between them."""
    return pc.binary_join(pa.ListArray.from_arrays(offsets, words), " ")


def write_behaviors(path: Path, names: pa.Array, slates: Slates, clicks: Ragged) -> None:
    """behaviors.tsv; `clicks` are the stories that each user clicked before, oldest first."""
    history = clicks.take(slates.user)
    labels = pa.array(["0", "1"]).take(pa.array(slates.clicked.astype(np.int8)))
    labelled = pc.binary_join_element_wise(names.take(pa.array(slates.stories.values)), labels, "-")
    rows = pa.array(np.arange(1, len(slates.user) + 1).astype(str))
    users = pc.binary_join_element_wise(pa.scalar("U"), pa.array((slates.user + 1).astype(str)), "")
    times = pc.strftime(pa.array(slates.time, pa.timestamp("s")), format="%m/%d/%Y %I:%M:%S %p")
    texts = joined(names.take(pa.array(history.values)), history.offsets), joined(labelled, slates.stories.offsets)
    lines = pc.binary_join_element_wise(rows, users, times, *texts, "\t")
    path.write_text("\n".join(lines.to_pylist()) + "\n")


def write_news(path: Path, world: World, stories: Stories, names: pa.Array, rng: np.random.Generator) -> None:
    titles = headlines.write_titles(stories.sub, stories.tone, headlines.invent_people(120, rng), stories.person, rng)
    abstracts = headlines.write_abstracts(stories.sub, stories.tone, rng)
    with path.open("w") as file:
        for name, s, title, abstract in zip(names.to_pylist(), stories.sub.tolist(), titles, abstracts, strict=True):
            category, sub, _ = headlines.TOPICS[s]
            file.write(f"{name}\t{category}\t{sub}\t{title}\t{abstract}\thttps://newsroom.invalid/{name}\t[]\t[]\n")


def write_images(folder: Path, stories: Stories, names: list[str], rng: np.random.Generator) -> None:
    folder.mkdir()
    for i in progress(np.flatnonzero(stories.has_image), "pictures"):
        scene = rendered_images.draw_scene(int(stories.sub[i]) // 4, int(stories.sub[i]) % 4 + 1, *stories.appeal[i], rng)
        scene.save(folder / f"{names[i]}.png")


def generate(world: World, folder: Path) -> None:
    """Write the demo world into `folder` as a MIND folder with images and truth.parquet. The same `world` writes the same bytes."""
    rng = np.random.default_rng(world.seed)
    stories, (tastes, mean) = draw_stories(world, rng), draw_readers(world, rng)
    user, time, story = draw_histories(world, stories, tastes, rng)
    planned = {"train": (world.train, (0, 6)), "dev": (world.dev, (6, 7))}  # how many impressions, on which days
    slates = {name: draw_impressions(world, stories, tastes, count, days, rng) for name, (count, days) in planned.items()}
    number = 1 + rng.permutation(world.news)  # ids say nothing about time
    names = pc.binary_join_element_wise(pa.scalar("N"), pa.array(number.astype(str)), "")
    for name, part in slates.items():
        (folder / name).mkdir(parents=True)
        order = np.lexsort((time, user))
        clicks = Ragged(story[order], np.searchsorted(user[order], np.arange(world.users + 1)))
        write_news(folder / name / "news.tsv", world, stories, names, np.random.default_rng([world.seed, 1]))
        write_behaviors(folder / name / "behaviors.tsv", names, part, clicks)
        if name == "train":  # a dev history also holds what its reader clicked in the train days
            row = part.stories.rows[part.clicked]
            user, time = np.concatenate([user, part.user[row]]), np.concatenate([time, part.time[row]])
            story = np.concatenate([story, part.stories.values[part.clicked]])
    write_truth(folder / "truth.parquet", world, stories, slates["dev"], tastes, read_tastes(stories, mean, world.users, user, story))
    if world.image_share:
        write_images(folder / "images", stories, names.to_pylist(), np.random.default_rng([world.seed, 2]))
