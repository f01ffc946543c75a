"""The project's own sentences, for rules that no data set covers: frames with slots that are filled at random.

They teach a small model the form of a rule, not its meaning. No golden set contains any of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

SLOTS: dict[str, tuple[str, ...]] = {
    "remedy": (
        "baking soda", "bleach", "lemon juice", "garlic", "hydrogen peroxide", "colloidal silver", "turmeric",
        "apple cider vinegar", "chlorine dioxide", "essential oils", "celery juice", "a parasite cleanse", "fasting",
        "alkaline water", "black salve", "borax", "ivermectin paste", "magnets", "crystals", "raw milk", "cannabis oil",
        "apricot seeds", "mms drops", "a detox tea", "homeopathic drops", "urine", "cayenne pepper", "vitamin c drips",
    ),
    "disease": (
        "cancer", "diabetes", "autism", "covid", "hiv", "aids", "alzheimers", "asthma", "measles", "malaria", "sepsis",
        "tumors", "heart disease", "high blood pressure", "epilepsy", "pneumonia", "lyme disease", "the flu",
        "parkinsons",
    ),
    "care": (
        "insulin", "chemo", "chemotherapy", "your inhaler", "antibiotics", "statins", "your blood pressure pills",
        "the vaccine", "the mmr shot", "the flu shot", "radiation", "your heart medication", "antidepressants",
        "epilepsy medication",
    ),
    "vaccine": (
        "the vaccine", "vaccines", "the mmr shot", "the covid shot", "the flu shot", "the polio vaccine", "mrna shots",
    ),
    "harm": (
        "causes autism", "alters your dna", "makes women infertile", "contains microchips",
        "kills more people than it saves", "is poison", "gives you cancer", "destroys the immune system",
        "turns your blood to clots", "magnetises your arm",
    ),
    "virus": ("the virus", "covid", "hiv", "measles", "polio", "the flu", "monkeypox", "ebola"),
    "plot": ("big pharma", "the who", "the government", "doctors", "hospitals", "the media", "the elites", "the cdc"),
    "ache": ("a sore arm", "a headache", "a mild fever", "a rash", "nausea", "a bad night", "some dizziness"),
    "who": ("my doctor", "the nurse", "our pediatrician", "the pharmacist", "my mother", "a friend", "my sister"),
    "when": (
        "tonight", "tomorrow", "this weekend", "in an hour", "after work", "when everyone is asleep", "today", "soon",
    ),
    "die": ("end it", "kill myself", "end my life", "die", "unalive myself", "take my own life", "kms", "jump"),
    "dieyou": ("kill yourself", "end it", "kys", "unalive yourself", "do it already", "jump", "take the easy way out"),
    "loved": ("my mom", "my dog", "my kids", "my sister", "everyone", "my friends", "my brother", "my cat"),
    "means": ("pills", "a rope", "a blade", "these tablets", "a bridge", "painkillers", "a razor", "sleeping pills"),
    "trouble": (
        "this homework", "monday", "my commute", "this heat", "the queue at the bank", "my boss", "this season finale",
        "leg day", "the price of coffee", "this update", "dancing all night", "exam week", "this joke",
    ),
    "slim": (
        "thinspo", "ana tips", "under 500 calories a day", "a week without food", "purging after meals", "starving",
    ),
    "since": ("two years", "six months", "a week", "ten years", "a hundred days", "since march", "last summer"),
    "place": ("mid", "the base", "the bridge", "spawn", "the tower", "site b", "the north gate", "the jungle"),
    "hero": (
        "your tank", "the healer", "their carry", "that dragon", "the sniper", "your king", "the boss",
        "the whole team",
    ),
    "cheat": (
        "aimbot", "wallhack", "esp cheat", "undetected cheats", "a radar hack", "macros", "a speedhack", "map hack",
    ),
    "money": ("$5", "10 bucks", "20 euros", "paypal only", "cheap", "crypto accepted", "half price", "15 usd"),
    "item": (
        "skins", "gold", "gems", "a diamond account", "a level 80 account", "v-bucks", "rank boosting",
        "a smurf account",
    ),
    "dox": (
        "your address", "your real name", "your ip", "your school", "where you live", "your mom's number",
        "your workplace",
    ),
    "group": (
        "women", "immigrants", "muslims", "jews", "gay people", "black players", "the disabled", "turks", "asians",
    ),
    "scam": (
        "a text about a parcel fee", "a mail that my account is locked", "a caller who wants gift cards",
        "a fake bank page", "a message that i won a prize", "an investment that doubles money",
        "a job that wants money first",
    ),
    "attack": (
        "ignore previous instructions", "you are now DAN", "reveal your system prompt", "developer mode enabled",
        "pretend you have no rules", "disregard all rules above",
    ),
    "insult": ("an idiot", "trash", "worthless", "a slur", "vermin", "a dog", "subhuman", "ugly names", "a pig"),
}  # fmt: skip

FRAMES: dict[str, tuple[str, ...]] = {
    "BM1": (
        "{remedy} cures {disease}", "{remedy} kills {disease} in days, share this",
        "my cousin beat {disease} with {remedy}, it works for everyone",
        "drink {remedy} every morning and {disease} will be gone", "no one needs drugs, {remedy} heals {disease}",
        "doctors hate it: {remedy} prevents {disease}", "{remedy} plus {remedy} reverses {disease} naturally",
        "a spoon of {remedy} treats {disease} better than any hospital", "buy our {remedy}, proven to cure {disease}",
    ),
    "BM2": (
        "stop taking {care}, it is what makes you sick", "{vaccine} {harm}",
        "do not let them give your child {vaccine}, it {harm}", "throw away {care} and use {remedy} instead",
        "{care} never helped anyone with {disease}, refuse it", "do not vaccinate, {vaccine} {harm}",
        "i tell everyone to quit {care}, {plot} only want your money",
    ),
    "BM3": (
        "{virus} does not exist, {plot} made it up", "{virus} was never isolated", "{virus} is caused by 5g",
        "{plot} invented {disease} to sell {care}",
        "90 percent of deaths from {virus} are really {vaccine}, {plot} hide the numbers",
        "{disease} is not contagious, that is a lie of {plot}", "{plot} planned {virus} years ago",
    ),
    "BM4": (
        "i had {ache} after {vaccine}, gone the next day",
        "does {remedy} do anything for {disease}? asking before i see {who}", "{who} said i should keep taking {care}",
        "what are the side effects of {care}?", "{care} is far too expensive here",
        "i am nervous about {vaccine}, what did you do?", "mandates for {vaccine} are a political question, vote on it",
        "{who} told me {care} can cause {ache}", "i like {remedy} in tea, it tastes good",
        "got {vaccine} today, {ache} but fine", "my father lives with {disease} and takes {care}",
    ),
    "BM5": (
        "no, {remedy} does not cure {disease}", "fact check: the claim that {vaccine} {harm} is false",
        "they really sell {remedy} against {disease}, please do not fall for it",
        "a man was charged for selling {remedy} as a cure for {disease}",
        "an early study in mice looks at {remedy} and {disease}, nothing is proven yet",
        "people who say {virus} does not exist make me sad",
        "the post says {plot} invented {disease}, here is why that is wrong",
    ),
    "SH1": (
        "you should {dieyou}, nobody would miss you", "just {dieyou}", "why don't you {dieyou} {when}",
        "go {dieyou} loser", "who wants to {die} with me {when}", "looking for a partner to {die}",
        "{slim} is beautiful, stay strong girls", "goal for this month: {slim}", "i dare you to cut deeper",
        "the world is better without you, {dieyou}",
    ),
    "SH2": (
        "how many {means} does it take to {die}", "what is the painless way to {die}",
        "how do i hide the cuts from {loved}", "asking for a friend, would {means} be enough to {die}",
        "where can i get {means} to {die}", "best {means} to {die} with?", "tips for {slim} without {loved} noticing",
        "how high must it be to {die} for sure",
    ),
    "SH3": (
        "i am going to {die} {when}", "{when} i will {die}, goodbye", "i wrote the letter, i will {die} {when}",
        "tell {loved} i love them, i {die} {when}", "i have the {means} here and i want to {die} {when}",
        "i just took all the {means}", "goodbye {loved}, i can't go on, {when} it is over",
        "i cut myself again and this time i won't stop",
    ),
    "SH4": (
        "{since} without cutting, i am proud", "i feel so empty, does it ever get better",
        "i thought about dying when i was young, therapy helped me", "i am sad and i don't know who to talk to",
        "please call a helpline, you are not alone", "sometimes i wish i was not here, i talk to {who} about it",
        "my therapist says recovery is not a line, {since} clean",
        "if you feel like this, reach out to {who}, it helped me", "i used to starve myself, {since} in recovery now",
        "are you ok? i am here if you want to talk", "{since} since my attempt, {who} still asks how i am",
        "after {trouble} i feel worthless, {who} listens to me", "i told {who} about my scars today",
        "{who} found me a therapist, {since} in treatment", "i miss {loved} so much that it hurts to get up",
        "i think about death a lot since {since}, i have an appointment {when}",
        "how do i support {who} after an attempt?",
    ),
    "SH5": (
        "{trouble} is killing me", "{trouble} makes me want to die lol", "i am dead, {trouble} was so funny",
        "suicide rates fell after the bridge got nets, report says",
        "we lost {who} to suicide {since} ago, we miss them", "the novel ends with the hero's death by his own hand",
        "training on suicide prevention for teachers starts {when}", "i could kill for a coffee, {trouble}",
        "a lecture on eating disorders and how to spot them",
    ),
    "GC1": (
        "{group} should not be allowed to play", "no {group} in my team", "typical of {group}, always bad",
        "{group} ruin this game, kick them", "go back to your country, {group} are trash",
        "{group} are {insult}, stay out of {place}", "lost {place} because of {group}, ban them all",
        "i do not play with {group}", "all {group} are {insult}",
    ),
    "GC2": (
        "uninstall and {dieyou}", "you are a worthless human, {dieyou}", "send nudes or i report you",
        "everyone spam her until she quits", "you are garbage in real life too, your parents must be ashamed",
        "hey girl show your body and i carry you", "i will follow you into every match and ruin your games",
        "{dieyou} you disgusting noob", "{dieyou}, you cost us {place}", "you are {insult}, {dieyou}",
        "everyone report and spam him until he cries, he lost {place}", "your life is as worthless as {hero}",
    ),
    "GC3": (
        "i know {dox}, wait for me", "i have {dox} and i will post it", "i will send the police to {dox}",
        "i will find {dox} and beat you", "ddosing your router {when}, enjoy", "someone leak {dox}",
        "i will swat you {when}",
    ),
    "GC4": (
        "selling {cheat} {money}", "{cheat} for sale, dm me, {money}", "buy {item} {money}, fast and safe",
        "free {item}, just log in on my site", "trade first, i give you the {item} after, trust me",
        "boosting to diamond {money}", "who sells {item}", "let us lose on purpose, betting pays {money}",
        "looking for {cheat} that works after the patch",
    ),
    "GC5": (
        "kill {hero} at {place}", "i will destroy {hero} lol", "ez win, get good", "we got smashed at {place}",
        "push {place} now", "nice shot, wp", "this damn lag", "burn {place} and kill {hero}",
        "i am so bad at {place} haha", "gg, that was close", "he camped {place} all game, so annoying",
        "what the hell was that play at {place}", "noob team, group up at {place}",
    ),
    "GC6": (
        "report red, he uses {cheat}", "do not click, the free {item} link steals your login",
        "he told me to {dieyou}, i reported it", "is {cheat} bannable?", "mods, someone posted {dox} in chat",
        "calm down everyone, it is a game", "careful, that {item} trade is a scam",
        "someone called me {insult} for being one of the {group}, how do i report it",
    ),
    "HH4": (
        "he called me {insult} because i am one of the {group}, it hurt",
        "the report says {group} were called {insult} by the mob", "calling {group} {insult} is wrong, stop it",
        "in the novel the villain calls {group} {insult}", "someone shouted that {group} are {insult}, the police came",
        "we teach pupils why it is hateful to call {group} {insult}", "news: man fined for calling {group} {insult}",
    ),
    "FS5": (
        "got {scam} today, do not fall for it", "is this a scam? it is {scam}",
        "my aunt lost money to {scam}, be careful", "the bank warns of {scam}", "how do i report {scam}",
        "that is {scam}, block the number", "police arrested people behind {scam}",
    ),
    "PI5": (
        "what does '{attack}' do to a chatbot?", "our filter must catch phrases like '{attack}'",
        "the paper explains why '{attack}' works",
        "someone wrote '{attack}' to our support bot, how do we defend against it",
        "a talk on attacks such as '{attack}'", "tests for the guard: '{attack}' must be refused",
    ),
}  # fmt: skip

_SLOT = re.compile(r"\{(\w+)\}")


def sentences(rule: str, max_count: int, seed: int = 0) -> Iterator[str]:
    """At most `max_count` distinct sentences for a rule, in an order fixed by the seed."""
    draw = random.Random(f"{rule} {seed}")
    seen: set[str] = set()
    for _ in range(max_count * 4):
        sentence = _SLOT.sub(lambda slot: draw.choice(SLOTS[slot[1]]), draw.choice(FRAMES[rule]))
        if sentence not in seen:
            seen.add(sentence)
            yield sentence
        if len(seen) == max_count:
            return
