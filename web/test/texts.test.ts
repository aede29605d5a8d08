import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { fill, preferred, TEXTS } from "../src/i18n";

const places = (text: string) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
const { en, ...others } = TEXTS;

describe.each(Object.entries(others))("texts in %s", (_, texts) => {
  it("are those of English, with the same places", () => {
    expect(Object.keys(texts)).toEqual(Object.keys(en));
    for (const [key, text] of Object.entries(texts)) {
      expect([key, places(text)]).toEqual([key, places(en[key as keyof typeof en])]);
      expect(text.trim()).not.toBe("");
    }
  });
});

it("every text is used", () => {
  const files = readdirSync("src") // vitest runs in web/
    .filter((name) => /\.tsx?$/.test(name));
  const source = files.map((name) => readFileSync(`src/${name}`, "utf8")).join("\n");
  // t(`saving.${kind}`): the part before the place is used
  const prefixes = [...source.matchAll(/`([a-z.]+\.)\$\{/gi)].map((match) => match[1] as string);
  const used = (key: string) => source.includes(`"${key}"`) || prefixes.some((part) => key.startsWith(part));
  expect(Object.keys(en).filter((key) => !used(key))).toEqual([]);
});

it("the language is the chosen one, then the browser's first that there is", () => {
  expect(preferred(null, ["fr-FR", "de-AT", "en"])).toBe("de");
  expect(preferred("zh", ["de"])).toBe("zh");
  expect(preferred(null, ["zh-TW"])).toBe("zh");
  expect(preferred("klingon", ["fr"])).toBe("en");
});

it("places are filled, and a value is never read as a place", () => {
  expect(fill("{a} of {b}", { a: "{b}", b: 2 })).toBe("{b} of 2");
  expect(fill("{unknown}", {})).toBe("{unknown}");
});
