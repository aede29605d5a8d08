import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { expect, it } from "vitest";

// vitest runs in web/
const PAGE = "../src/sppnet/server/page";
const assets = readdirSync(`${PAGE}/assets`);
const read = (name: string) => readFileSync(`${PAGE}/${name}`);

it("the whole page takes at most 150 kB as it is sent", () => {
  const files = ["index.html", ...assets.map((name) => `assets/${name}`)];
  const sizes = files.map((name) => gzipSync(read(name), { level: 9 }).length);
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(150_000);
});

it("the page names no other server", () => {
  const text = [read("index.html"), ...assets.map((name) => read(`assets/${name}`))].join("\n");
  const addresses = [...text.matchAll(/(?:https?:)?\/\/[a-z0-9.-]+\.[a-z]{2,}[^\s"'`)]*/gi)].map(String);
  expect(addresses.filter((one) => !one.startsWith("http://www.w3.org/"))).toEqual([]);
});

it("texts reach the page as text only", () => {
  const files = readdirSync("src").filter((name) => /\.tsx?$/.test(name));
  const source = files.map((name) => readFileSync(`src/${name}`, "utf8")).join("\n");
  expect(source).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function/);
});
