"""A parser for delimited text, written as a state machine (one pass, one character at a time)."""

START, PLAIN, QUOTED, AFTER = "start", "plain", "quoted", "after"


def parse(text, delimiter=",", quote='"', comment=None):
    """Rows of `text` as lists of strings."""
    rows = []
    row = []
    field = ""
    state = START
    text = text.replace("\r\n", "\n")
    if comment:
        text = "\n".join(line for line in text.split("\n") if not line.startswith(comment))

    for char in text:
        if state == START:
            if char == quote:
                state = QUOTED
            elif char == delimiter:
                row.append("")
            elif char == "\n":
                if row:
                    row.append("")
                    rows.append(row)
                    row = []
            else:
                field = char
                state = PLAIN
        elif state == PLAIN:
            if char == delimiter:
                row.append(field)
                field = ""
                state = START
            elif char == "\n":
                row.append(field)
                rows.append(row)
                row, field = [], ""
                state = START
            else:
                field += char
        elif state == QUOTED:
            if char == quote:
                state = AFTER
            else:
                field += char
        elif state == AFTER:
            if char == ",":
                row.append(field)
                field = ""
                state = START
            elif char == "\n":
                if field:
                    row.append(field)
                if row:
                    rows.append(row)
                row, field = [], ""
                state = START
            elif char == quote:
                state = QUOTED
            else:
                field += char
                state = PLAIN
    return rows
