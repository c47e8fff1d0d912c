"""Makes the input of this task: `python3 generate.py [FOLDER]` writes environment/data and tests/data below FOLDER.

Lines are composed from marked pieces: {KIND:text} is personal data, {~KIND:text} only resembles it. The tests keep the marked
form, the environment gets the plain text. The files are committed; running this is not needed to run the task.
"""

import random
import re
import sys
from pathlib import Path

RNG = random.Random(77)


def luhn_digit(digits):
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def card(length, valid=True):
    digits = str(RNG.choice([4, 5, 37])) + "".join(RNG.choice("0123456789") for _ in range(20))
    digits = digits[:length - 1]
    last = luhn_digit(digits)
    return digits + (last if valid else str((int(last) + RNG.randrange(1, 9)) % 10))


def group(text, size, separator):
    return separator.join(text[start:start + size] for start in range(0, len(text), size))


def iban(country, length, valid=True):
    body = "".join(RNG.choice("0123456789") for _ in range(length - 4))
    if country in ("GB", "NL"):
        body = "ABNA" + body[4:]
    value = int("".join(str(int(char, 36)) for char in body + country + "00"))
    checksum = 98 - value % 97
    return f"{country}{checksum if valid else (checksum + 5) % 90 + 2:02d}{body}"


def lines():
    """Marked lines by file."""
    yield "chat-0412.txt", [
        "[09:01:12] agent: Good morning, how can I help?",
        "[09:01:40] client: hi, my login {EMAIL:jo.fischer+shop@mail.example.org} does not work, nor does {EMAIL:JO-F@EXAMPLE.CO.UK}.",
        "[09:02:05] agent: Thanks. Is {~EMAIL:jo.fischer@localhost} an old account of yours?",
        "[09:02:31] client: no idea. twitter is {~EMAIL:@jo_fischer} if that helps",
        "[09:03:00] agent: We see a login from {IP:203.0.113.77}, client version {~IP:10.2.0.14.3}.",
        "[09:03:33] client: mine is ({IP:10.0.0.1}), the app says version {~IP:4.12.7}",
        "[09:04:10] agent: and what about {~IP:300.12.8.1} or {~IP:192.168.01.1}? These come from our log.",
        "[09:04:50] client: never seen. Call me on {PHONE:+49 151 23456789} or at work {PHONE:0049-30-901820}, please",
        "[09:05:20] agent: Ticket {~PHONE:0151 23456789} was opened on 2024-03-29, order {~PHONE:4930901820}.",
        "[09:06:02] client: ok. Paid with {CARD:%s} though" % group(card(16), 4, " "),
        "[09:06:30] agent: That transaction shows {~CARD:%s}, is this a typo?" % group(card(16, False), 4, " "),
        "[09:07:15] client: sorry: {CARD:%s}" % group(card(16), 4, "-"),
        "[09:08:00] agent: Thanks, closing at 09:15, 3 of 4 items done.",
    ]
    yield "chat-0413.txt", [
        "[14:10:00] agent: To verify you, please state your date of birth.",
        "[14:10:22] client: date of birth: {DOB:1984-03-29}, customer since {~DOB:2011-05-02}",
        "[14:10:59] client: My partner was born on {DOB:07.11.1979}, we moved in on {~DOB:01.02.2015}.",
        "[14:11:40] agent: The contract signed {~DOB:12/10/2019} names a DOB of {DOB:30/06/1991}",
        "[14:12:03] client: that is my sister; she was born in the same town as I, which we left on {~DOB:14.08.1999}",
        "[14:12:30] client: her BIRTHDAY is ({DOB:30/06/1991}), sorry for the confusion",
        "[14:13:00] agent: Refund goes to {IBAN:%s}?" % group(iban("DE", 22), 4, " "),
        "[14:13:24] client: no, {IBAN:%s}; the first was {~IBAN:%s}" % (iban("GB", 22), iban("DE", 22, False)),
        "[14:14:10] agent: and {IBAN:%s} is also on file" % group(iban("NL", 18), 4, " "),
        "[14:15:00] client: that one is {~IBAN:%s}, an old reference" % group(iban("FR", 27, False), 4, " "),
        "[14:15:31] agent: Part no. {~IBAN:X%s} is no account, right?" % iban("BE", 16),
        "[14:16:40] client: right. Bye!",
    ]
    yield "chat-0420.txt", [
        "[18:00:02] client: Good evening   (two   blanks kept?)",
        "[18:00:40] client: {PHONE:+1 (415) 555-0132} is my number, ext. 12",
        "[18:01:15] agent: We have {PHONE:+44.20.7946.0958} and {~PHONE:+12 345} in the file; which one?",
        "[18:02:00] client: The first. The other is {~PHONE:020 7946 0958} without the code.",
        "[18:02:45] agent: Terminal id {~PHONE:A+4915123456789} too?",
        "[18:03:10] client: no. card {CARD:%s}, the 15-digit one" % card(15),
        "[18:03:50] agent: Parcel {~CARD:%s} is on its way, tracking {~CARD:%s}." % (card(18, False), card(16) + "77310"),
        "[18:04:20] client: Great. Send the bill to {EMAIL:accounts_payable%%eu@sub.dept.example.museum}, cc {EMAIL:k@x-y.io}".replace("%%", "%"),
        "[18:05:00] agent: Copied {~EMAIL:no.reply@shop} and {~EMAIL:a@b.1}; anything else?",
        "[18:05:30] client: the router {IP:172.16.254.1}/24 answers, {IP:8.8.8.8}. does not",
        "[18:06:10] agent: gateway is {IP:255.255.255.0}? no, that is a mask; see firmware {~IP:1.2.3.4.5.6}",
        "[18:07:00] client: Thank you :-)",
    ]
    yield "mail-0421.txt", [
        "From: {EMAIL:Desk.07@help.example.com}",
        "Subject: case 2024-0421-118, opened 21.04.2024",
        "",
        "\tDear team,",
        "the customer (DOB {DOB:1969-12-01}) called from {PHONE:0033 1 70 18 99 00} about card {CARD:%s}." % group(card(16), 4, " "),
        "He was born in Graz, as were all of his brothers; contract from {~DOB:1999-07-15}.",
        "Refund: {IBAN:%s}, booked from {IP:198.51.100.23}." % group(iban("AT", 20), 4, " "),
        "Please do not use {~CARD:%s}; the checksum is off." % group(card(13, False), 4, " "),
        "Valid is {CARD:%s} (old style)." % card(13),
        "Write to {EMAIL:ops@example.net}, or ring {PHONE:+390612345678}.",
        "   -- the night shift",
    ]


def main(root):
    plain, marked = root / "environment" / "data" / "transcripts", root / "tests" / "data"
    for folder in (plain, marked):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in lines():
        text = "\n".join(content) + "\n"
        (marked / name).write_text(text, encoding="utf-8")
        (plain / name).write_text(re.sub(r"\{~?[A-Z]+:([^}]*)\}", r"\1", text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
