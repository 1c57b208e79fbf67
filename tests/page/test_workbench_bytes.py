"""The workbench's modules bytes.js and json.js, in a real browser."""

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from support.browser import blank

from echotwist.testing import ServiceProcess


@pytest.fixture(scope="module")
def page(browser: Browser, service: ServiceProcess) -> Iterator[Page]:
    """Of the same origin, and without a script of its own. What is tested here leaves nothing in
    it, so that one is enough for all."""
    with blank(browser, service.page) as page:
        yield page


def js(page: Page, module: str, expression: str, argument: Any = None) -> Any:
    """The value of an expression, in which `m` is the module, and `a` the argument."""
    return page.evaluate(
        f"async ([a]) => {{ const m = await import('./workbench/{module}.js'); {EITHER}"
        f" return {expression}; }}",
        [argument],
    )


EITHER = """
const bytes = (list) => Uint8Array.from(list);
const list = (bytes) => [...bytes];
const either = (call) => { try { return call(); } catch (error) { return error.message; } };
"""


# Bytes.


def test_a_dump_is_that_of_hexdump(page: Page) -> None:
    data = [*range(0x18, 0x2A), *b"~\x7f\x80\xff|"]
    assert js(page, "bytes", "m.hexDump(bytes(a))", data) == (
        "00000000  18 19 1a 1b 1c 1d 1e 1f  20 21 22 23 24 25 26 27  |........ !\"#$%&'|\n"
        "00000010  28 29 7e 7f 80 ff 7c                              |()~...||"
    )
    assert js(page, "bytes", "m.hexDump(bytes([]))") == ""


HEX = {
    "": b"",
    "00ff": b"\x00\xff",
    " 00 Ff\n0a\t": b"\x00\xff\x0a",
    "0x00, 0xFF,0X1a": b"\x00\xff\x1a",
    r"\x00\xff\X1a": b"\x00\xff\x1a",
    "de:ad:be:ef": b"\xde\xad\xbe\xef",
    "00 11 g2": "character 7, 'g', is no hexadecimal digit",
    "00 11 2g": "character 8, 'g', is no hexadecimal digit",
    "001": "an odd number of digits: character 3, '1', is alone",
    "1 2": "an odd number of digits: character 1, '1', is alone",
    "0x, 0x11": "no digit follows the 0x of character 1",
    "00\0": "character 3, U+0000, is no hexadecimal digit",
    "😀": "character 1, '😀', is no hexadecimal digit",
    "'": 'character 1, "\'", is no hexadecimal digit',
}


def test_hex_is_read_as_people_write_it_or_it_is_said_what_is_wrong(page: Page) -> None:
    read = js(page, "bytes", "a.map(text => either(() => list(m.parseHex(text))))", list(HEX))
    wanted = [each if isinstance(each, str) else list(each) for each in HEX.values()]
    assert read == wanted


NO_BASE64 = {
    "QQ!=": "character 3, '!', is not of base64",
    "QQ==QQ==": "character 5, 'Q', follows the padding",
    "QUJDR": "the last character is alone: a byte takes two at least",
    "QQ=": "the padding is of 1, where 2 is wanted",
    "QUJD=": "the padding is of 1, where none is wanted",
    "é": "character 1, 'é', is not of base64",
}


def test_what_is_wrong_with_base64_is_said(page: Page) -> None:
    said = js(page, "bytes", "a.map(text => either(() => m.parseBase64(text)))", list(NO_BASE64))
    assert dict(zip(NO_BASE64, said, strict=True)) == NO_BASE64


def test_base64_is_pythons_in_both_alphabets_with_or_without_padding(page: Page) -> None:
    some = random.Random(1)
    datas = [some.randbytes(length) for length in [*range(20), 12_287, 12_288, 12_289]]
    standard = [base64.b64encode(data).decode() for data in datas]
    safe = [base64.urlsafe_b64encode(data).decode().rstrip("=") for data in datas]
    lines = [base64.encodebytes(data).decode() for data in datas]
    wanted = [list(data) for data in datas]
    assert js(page, "bytes", "a.map(each => m.formatBase64(bytes(each)))", wanted) == standard
    for texts in (standard, safe, lines):
        assert js(page, "bytes", "a.map(each => list(m.parseBase64(each)))", texts) == wanted
    assert js(page, "bytes", "m.formatHex(bytes(a))", wanted[19]) == datas[19].hex(" ")


UTF8: list[str | bytes] = [
    *("", "hello", "Grüße, 世界 👋🏽", "\ufeffx", "\0\x7f\u2028\ufffd\uffff\U0010ffff"),
    *(b"\x80", b"a\xc3", b"a\xc3(", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xe2\x82"),
    *(b"\xed\xa0\x80", b"\xed\x9f\xbf\xee\x80\x80", b"\xf0\x80\x80\x80", b"\xf4\x8f\xbf\xbf"),
    *(b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"ok\xe4\xb8\x96\xe4\xb8", b"\xf8" * 5),
]


def test_utf8_is_decoded_as_by_python_and_the_first_fault_is_found(page: Page) -> None:
    some = random.Random(2)
    datas = [text.encode() if isinstance(text, str) else text for text in UTF8]
    datas += [
        bytes(some.choices(b"a\x80\xbf\xc2\xe0\xe2\xed\xf0\xf4\x9f\xa0", k=some.randrange(1, 7)))
        for _ in range(2000)
    ]
    found = js(page, "bytes", "a.map(each => m.decodeUtf8(bytes(each)))", [list(d) for d in datas])
    for data, decoded in zip(datas, found, strict=True):
        try:
            wanted = {"text": data.decode(), "isValid": True, "at": -1}
        except UnicodeDecodeError as error:
            wanted = {"text": data.decode(errors="replace"), "isValid": False, "at": error.start}
        assert decoded == wanted, data


def test_sixteen_megabytes_are_no_task_for_a_minute(page: Page) -> None:
    page.evaluate("""async () => {
        const m = await import("./workbench/bytes.js");
        const data = new Uint8Array(16 << 20).map((_, i) => i * 7);
        const same = (other) =>
            other.length === data.length && other.every((byte, i) => byte === data[i]);
        if (!same(m.parseBase64(m.formatBase64(data)))) throw new Error("base64");
        if (!same(m.parseHex(m.formatHex(data)))) throw new Error("hex");
    }""")


# JSON.


VALID = [
    *("0", "-0", "1.0", "1e400", "-1.5E-10", "1e+0", "12345678901234567890", "true", " null\r\n\t"),
    *('""', '"a"', r'"\u0041\"\\\/\b\f\n\r\t"', r'"\ud800"', '"\u2028\x7f😀"', '"\ufeff"'),
    *("[]", "{}", "[ ]", "{ }", "[[]]", '{"a":1,"a":2}', '[1,"a",{"b":[null]}]', '{"":{}}'),
]

INVALID = {
    "": "line 1, column 1: expected a value, but the text ends",
    " ": "line 1, column 2: expected a value, but the text ends",
    "[1,]": "line 1, column 4: expected a value after the comma, but found ']'",
    '{"a":1,}': "line 1, column 8: expected a name in double quotes after the comma, but found '}'",
    '{"a":}': "line 1, column 6: expected a value after the colon, but found '}'",
    "{a:1}": "line 1, column 2: expected a name in double quotes, or }, but found 'a'",
    '{"a" 1}': "line 1, column 6: expected a colon after the name, but found '1'",
    '{"a":1\n "b":2}': "line 2, column 2: expected a comma or }, but found '\"'",
    "[1 2]": "line 1, column 4: expected a comma or ], but found '2'",
    "[,1]": "line 1, column 2: expected a value or ], but found ','",
    "[1": "line 1, column 3: expected a comma or ], but the text ends",
    "[1}": "line 1, column 3: expected a comma or ], but found '}'",
    "]": "line 1, column 1: expected a value, but found ']'",
    "1 2": "line 1, column 3: expected nothing more, but found '2'",
    "01": "line 1, column 1: a number does not begin with 0",
    "-01": "line 1, column 2: a number does not begin with 0",
    "-": "line 1, column 2: expected a digit after the minus, but the text ends",
    "1.": "line 1, column 3: expected a digit after the point, but the text ends",
    "1.e1": "line 1, column 3: expected a digit after the point, but found e1",
    "1e": "line 1, column 3: expected a digit in the exponent, but the text ends",
    "1e+x": "line 1, column 4: expected a digit in the exponent, but found 'x'",
    "+1": "line 1, column 1: expected a value, but found '+'",
    ".5": "line 1, column 1: expected a value, but found '.'",
    "0x1f": "line 1, column 2: expected nothing more, but found x1f",
    "NaN": "line 1, column 1: expected a value, but found NaN",
    "-Infinity": "line 1, column 2: expected a digit after the minus, but found Infinity",
    "undefined": "line 1, column 1: expected a value, but found undefined",
    "True": "line 1, column 1: expected a value, but found True",
    "trueish": "line 1, column 1: expected a value, but found trueish",
    "nul": "line 1, column 1: expected a value, but found nul",
    "'a'": 'line 1, column 1: expected a value, but found "\'"',
    '"a': "line 1, column 1: the string that begins here does not end",
    '"a\\': "line 1, column 1: the string that begins here does not end",
    '"a\\"': "line 1, column 1: the string that begins here does not end",
    '"a\nb"': "line 1, column 3: U+000A in a string, where it must be escaped",
    '"\x00"': "line 1, column 2: U+0000 in a string, where it must be escaped",
    '"\x1f"': "line 1, column 2: U+001F in a string, where it must be escaped",
    r'"\x41"': "line 1, column 2: \\ before 'x', which is no escape of JSON",
    r'"\'"': 'line 1, column 2: \\ before "\'", which is no escape of JSON',
    r'"\u12g4"': "line 1, column 2: \\u without four hexadecimal digits",
    r'"\u12"': "line 1, column 2: \\u without four hexadecimal digits",
    "\ufeff1": "line 1, column 1: a byte order mark, which JSON has not",
    "\u00a01": "line 1, column 1: expected a value, but found U+00A0",
    "\f1": "line 1, column 1: expected a value, but found U+000C",
    "[1] // no": "line 1, column 5: expected nothing more, but found '/'",
    '["😀é", \r\n\r\r\n"x" y]': "line 4, column 5: expected a comma or ], but found 'y'",
    '["😀é" y]': "line 1, column 7: expected a comma or ], but found 'y'",
}

COMPARE = """{
    let isJson = true;
    try { JSON.parse(text); } catch { isJson = false; }
    let pretty;
    try { pretty = m.prettyJson(text); } catch (error) { pretty = error; }
    const checked = m.checkJson(text);
    const isSame = checked.isValid === isJson && (pretty instanceof Error) !== isJson
        && (isJson ? checked.problem === "" : checked.problem === pretty.message)
        && (!isJson || JSON.stringify(JSON.parse(pretty)) === JSON.stringify(JSON.parse(text)));
    if (!isSame) wrong.push(text);
}"""
"""What JSON.parse finds of a `text`, and json.js."""


def test_json_is_what_json_parse_takes(page: Page) -> None:
    texts = [*VALID, *INVALID]
    found = js(
        page, "json", f"((wrong) => {{ for (const text of a) {COMPARE} return wrong; }})([])", texts
    )
    assert found == []
    assert js(page, "json", "a.every(text => m.checkJson(text).isValid)", VALID)


def test_what_is_wrong_with_json_is_said_with_its_place(page: Page) -> None:
    problems = js(page, "json", "a.map(text => m.checkJson(text).problem)", list(INVALID))
    assert dict(zip(INVALID, problems, strict=True)) == INVALID


def test_any_text_is_json_for_both_or_for_neither(page: Page) -> None:
    some = random.Random(3)
    bits = ["{", "}", "[", "]", ",", ":", '"', '"a"', '"a":', "0", "1", "-", ".", "e", "+", "\\"]
    bits += ["u", "0041", "true", "null", " ", "\n", "\t", "\x0b", "\ufeff", "\ud800", "\x00", "😀"]
    texts = ["".join(some.choices(bits, k=some.randrange(1, 9))) for _ in range(20_000)]
    # And some that nearly are.
    for _ in range(5000):
        text = list(json.dumps(made(some, 4), ensure_ascii=False))
        for _ in range(some.randrange(3)):
            text[some.randrange(len(text))] = some.choice(bits)
        texts.append("".join(text))
    loop = f"((wrong) => {{ for (const text of a) {COMPARE} return wrong; }})([])"
    assert js(page, "json", loop, texts) == []
    valid = js(page, "json", "a.filter(text => m.checkJson(text).isValid).length", texts)
    assert 1000 < valid < len(texts) - 1000


def made(some: random.Random, depth: int) -> Any:
    kind = some.randrange(8 if depth else 5)
    if kind < 5:
        return [None, True, some.randrange(-99, 99), some.random() * 1e9, 'é"\\\n😀'][kind]
    values = [made(some, depth - 1) for _ in range(some.randrange(4))]
    return values if kind == 5 else {f"k{number}": value for number, value in enumerate(values)}


def test_no_token_is_changed_when_json_is_indented(page: Page) -> None:
    text = (
        r'{"a":1.0,"a":[1e400,12345678901234567890,-0,"\u0041\/"],"empty":[ ],"none":{ } ,'
        r'"in":{"":[[null]]}}'
    )
    assert js(page, "json", "m.prettyJson(a)", text) == "\n".join([
        "{",
        '  "a": 1.0,',
        '  "a": [',
        "    1e400,",
        "    12345678901234567890,",
        "    -0,",
        r'    "\u0041\/"',
        "  ],",
        '  "empty": [],',
        '  "none": {},',
        '  "in": {',
        '    "": [',
        "      [",
        "        null",
        "      ]",
        "    ]",
        "  }",
        "}",
    ])  # fmt: skip


def test_json_is_indented_as_by_python(page: Page) -> None:
    some = random.Random(4)
    values = [made(some, 5) for _ in range(300)]
    texts = [json.dumps(value) for value in values]
    wanted = [json.dumps(value, indent=2) for value in values]
    assert js(page, "json", "a.map(text => m.prettyJson(text))", texts) == wanted


def test_of_json_that_is_long_the_beginning_is_shown_and_all_is_checked(page: Page) -> None:
    some = random.Random(5)
    asked = [(json.dumps(made(some, 5)), some.randrange(1, 200)) for _ in range(300)]
    asked += [(text, len(json.dumps(json.loads(text), indent=2))) for text, _ in asked]
    shown = js(page, "json", "a.map(([text, most]) => m.prettyJson(text, most))", asked)
    for (text, most), some_of_it in zip(asked, shown, strict=True):
        pretty = json.dumps(json.loads(text), indent=2)
        assert some_of_it == (pretty if len(pretty) <= most else pretty[:most] + "…")
    # Half of a surrogate pair is no character.
    assert js(page, "json", "m.prettyJson(a, 6)", '["😀"]') == '[\n  "…'
    assert js(page, "json", "either(() => m.prettyJson(a, 1))", "[1, x]") == (
        "line 1, column 5: expected a value after the comma, but found 'x'"
    )
    deep = "'['.repeat(1_000_000) + ']'.repeat(1_000_000)"
    assert js(page, "json", f"m.prettyJson({deep}, 100_000).length") == 100_001


def test_what_is_nested_deeply_is_no_burden(page: Page) -> None:
    assert js(
        page, "json", """(() => {
            const deep = "[".repeat(100_000) + "]".repeat(100_000);
            const wrong = '{"a":'.repeat(100_000);
            const flat = "[" + "1,".repeat(1_000_000) + "1]";
            const string = '"' + "x".repeat(4 << 20) + '"';
            return [m.prettyJson(deep).length < deep.length * 100, m.checkJson(deep).isValid,
                m.checkJson(wrong).problem, m.prettyJson(flat).length, m.checkJson(string).isValid];
        })()"""
    ) == [
        *(True, True, "line 1, column 500001: expected a value after the colon, but the text ends"),
        *(1_000_001 * 5 + 2, True),
    ]  # fmt: skip
