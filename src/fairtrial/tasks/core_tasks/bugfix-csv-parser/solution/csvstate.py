"""A parser for delimited text, written as a state machine (one pass, one character at a time)."""

START, PLAIN, QUOTED, AFTER, COMMENT = "start", "plain", "quoted", "after", "comment"


def parse(text, delimiter=",", quote='"', comment=None):
    """Rows of `text` as lists of strings."""
    rows, row, field = [], [], []
    state, line, begun = START, 1, 1
    text = text.removeprefix("\ufeff")
    index = 0
    while index < len(text):
        char = text[index]
        ends = char in "\r\n" and char not in (delimiter, quote)
        if char == "\r" and text[index + 1:index + 2] == "\n":
            char = "\r\n"
        index += len(char)
        if state == QUOTED:
            if char == quote and text[index:index + 1] == quote:
                field.append(char)
                index += 1
            elif char == quote:
                state = AFTER
            else:
                field.append(char)
        elif state == COMMENT:
            state = START if ends else COMMENT
        elif ends:
            if row or state != START:
                row.append("".join(field))
                rows.append(row)
            row, field, state = [], [], START
        elif char == delimiter:
            row.append("".join(field))
            field, state = [], START
        elif state == AFTER:
            raise ValueError(f"line {begun}: text after a closing quote")
        elif state == START and char == quote:
            state, begun = QUOTED, line
        elif state == START and not row and comment is not None and char == comment:
            state = COMMENT
        else:
            field.append(char)
            state = PLAIN
        line += ends
    if state == QUOTED:
        raise ValueError(f"line {begun}: quoted field is never closed")
    if row or state in (PLAIN, AFTER):
        row.append("".join(field))
        rows.append(row)
    return rows
