"""Sentences in SLURP's style: our own templates for some of its intents, with slots filled at random."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pruning.errors import UserError

FILLERS: dict[str, tuple[str, ...]] = {
    "time": ("six", "seven thirty", "eight", "nine fifteen", "ten", "eleven", "noon", "midnight", "half past four"),
    "date": ("today", "tomorrow", "on monday", "on tuesday", "on friday", "this weekend", "next week", "on sunday"),
    "place_name": ("london", "boston", "paris", "chicago", "berlin", "madrid", "denver", "glasgow", "toronto"),
    "person": ("anna", "michael", "my mother", "robert", "my boss", "susan", "david", "my sister", "peter"),
    "artist_name": ("mozart", "madonna", "the beatles", "elvis", "abba", "queen", "johnny cash"),
    "music_genre": ("jazz", "rock", "country", "classical", "hip hop", "blues"),
    "house_place": ("kitchen", "bedroom", "living room", "garage", "hallway", "bathroom"),
    "color_type": ("blue", "red", "green", "purple", "yellow", "orange"),
    "list_name": ("shopping", "grocery", "holiday", "birthday", "reading"),
    "item": ("milk", "bread", "apples", "batteries", "candles", "coffee", "flour"),
    "event_name": ("meeting", "dentist appointment", "lunch", "birthday party", "conference call", "yoga class"),
    "food_type": ("pizza", "sushi", "curry", "noodles", "burgers", "salad"),
    "currency_name": ("dollar", "euro", "pound", "yen", "franc", "rupee"),
    "transport_type": ("train", "bus", "taxi", "plane", "ferry"),
    "news_topic": ("politics", "sports", "science", "the election", "business", "football"),
}

TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("alarm", "set"): ("wake me up at {time}", "set an alarm for {time} {date}", "please wake me {date} at {time}"),
    ("alarm", "query"): ("what alarms do i have {date}", "is there an alarm for {time}", "show my alarms"),
    ("alarm", "remove"): ("cancel my alarm for {time}", "delete the {time} alarm", "remove all alarms {date}"),
    ("weather", "query"): (
        "what is the weather in {place_name}",
        "will it rain {date}",
        "how cold is it {date} in \
{place_name}",
        "do i need an umbrella {date}",
    ),
    ("music", "query"): ("what song is this", "who sings this song", "tell me which album by {artist_name} is playing"),
    ("play", "music"): (
        "play {artist_name}",
        "i want to hear some {music_genre} music",
        "play my {music_genre} songs",
        "put on something by {artist_name}",
    ),
    ("play", "radio"): (
        "turn on the {music_genre} radio station",
        "start the radio",
        "tune the radio to {music_genre}",
    ),
    ("iot", "hue_lightoff"): (
        "turn off the lights in the {house_place}",
        "lights off please",
        "switch off the {house_place} lamp",
    ),
    ("iot", "hue_lightchange"): ("make the lights {color_type}", "change the {house_place} light to {color_type}"),
    ("iot", "coffee"): ("make me a cup of coffee at {time}", "start the coffee machine", "brew some coffee {date}"),
    ("audio", "volume_up"): ("turn it up", "make the volume louder", "increase the volume please"),
    ("audio", "volume_mute"): ("mute the speaker", "be quiet until {time}", "turn the sound off"),
    ("calendar", "set"): (
        "add a {event_name} with {person} {date}",
        "schedule a {event_name} at {time}",
        "remind me of the {event_name} {date}",
    ),
    ("calendar", "query"): ("when is my {event_name} with {person}", "what is on my calendar {date}"),
    ("calendar", "remove"): ("cancel the {event_name} {date}", "delete my {event_name} with {person}"),
    ("lists", "createoradd"): ("add {item} to my {list_name} list", "put {item} on the {list_name} list"),
    ("lists", "query"): ("what is on my {list_name} list", "read me the {list_name} list"),
    ("email", "sendemail"): (
        "send an email to {person}",
        "write {person} that i am late",
        "reply to the email from \
{person}",
    ),
    ("email", "query"): ("do i have new emails from {person}", "check my inbox", "any unread mail {date}"),
    ("takeaway", "order"): ("order some {food_type}", "get me {food_type} for {time}", "i want {food_type} delivered"),
    ("transport", "ticket"): (
        "book a {transport_type} ticket to {place_name}",
        "buy me a ticket to {place_name} {date}",
    ),
    ("transport", "traffic"): ("how is the traffic to {place_name}", "are there traffic jams near {place_name}"),
    ("qa", "currency"): ("how much is a {currency_name} in {place_name}", "what is one {currency_name} worth"),
    ("news", "query"): ("tell me the news about {news_topic}", "what happened in {news_topic} {date}"),
}

_SLOT = re.compile(r"\{(\w+)\}")
_MAXIMUM_DRAWS = 1000


@dataclass(frozen=True)
class Command:
    """A sentence with its meaning.

    Attributes:
        words: words in lower case.
        scenario, action: the intent.
        entities: type, and index of the first and last word, of each entity.
    """

    words: tuple[str, ...]
    scenario: str
    action: str
    entities: tuple[tuple[str, int, int], ...] = ()

    @property
    def sentence(self) -> str:
        """Words of the sentence, separated by spaces."""
        return " ".join(self.words)


def draw(generator: np.random.Generator) -> Command:
    """Draw a sentence; all intents are equally likely."""
    intents = list(TEMPLATES)
    scenario, action = intents[int(generator.integers(len(intents)))]
    templates = TEMPLATES[scenario, action]
    words: list[str] = []
    entities = []
    for part in re.split(r"\s+", templates[int(generator.integers(len(templates)))]):
        slot = _SLOT.fullmatch(part)
        if slot is None:
            words.append(part)
            continue
        fillers = FILLERS[slot[1]]
        filler = fillers[int(generator.integers(len(fillers)))].split()
        entities.append((slot[1], len(words), len(words) + len(filler) - 1))
        words += filler
    return Command(tuple(words), scenario, action, tuple(entities))


def draw_all(generator: np.random.Generator, count: int, excluded: Collection[str] = ()) -> list[Command]:
    """Draw ``count`` sentences.

    Sentences with slots are distinct and not in ``excluded``; the few without slots, such as "turn it up", may repeat.

    Raises:
        UserError: the templates have too few sentences.
    """
    found: list[Command] = []
    seen = set(excluded)
    repeats = 0
    while len(found) < count:
        command = draw(generator)
        if command.entities and command.sentence in seen:
            repeats += 1
            if repeats > _MAXIMUM_DRAWS:
                raise UserError(f"the templates have only {len(found)} new sentences", "request fewer sentences")
            continue
        if command.entities:
            repeats = 0
            seen.add(command.sentence)
        found.append(command)
    return found
