import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiError } from "../src/api";
import { Saver } from "../src/saving";
import type { Content, Photo } from "../src/types";

const boxes = (...sides: number[]): Content => ({
  boxes: sides.map((side) => ({ box: [0, 0, side, side], name: "a" })),
  empty: false,
});

/** A server with one revision per photo, as ours has. */
class Server {
  photos = new Map<string, Photo>();
  fails: ApiError[] = [];
  puts = 0;

  photo(name: string): Photo {
    return (
      this.photos.get(name) ?? {
        photo: name,
        index: 0,
        width: 100,
        height: 100,
        revision: 0,
        state: "unlabelled",
        boxes: [],
        can_undo: false,
        can_redo: false,
        suggestions: { model: "", withheld: false, items: [] },
      }
    );
  }

  put = async (name: string, base: number, content: Content): Promise<Photo> => {
    this.puts += 1;
    const failure = this.fails.shift();
    if (failure) throw failure;
    const now = this.photo(name);
    if (now.revision !== base) throw new ApiError(409, "E_CONFLICT", "changed", { current: now });
    const state = content.empty ? "empty" : "labelled";
    const next: Photo = { ...now, boxes: content.boxes ?? [], state, revision: base + 1 };
    this.photos.set(name, next);
    return next;
  };
}

const OFFLINE = () => new ApiError(0, "E_OFFLINE", "");

let server: Server;
let events: {
  saved: ReturnType<typeof vi.fn>;
  conflict: ReturnType<typeof vi.fn>;
  refused: ReturnType<typeof vi.fn>;
};

function saver(): Saver {
  return new Saver(server.put, localStorage, "pending:", { ...events, changed: () => undefined } as never);
}

beforeEach(() => {
  vi.useFakeTimers();
  localStorage.clear();
  server = new Server();
  events = { saved: vi.fn(), conflict: vi.fn(), refused: vi.fn() };
});
afterEach(() => vi.useRealTimers());

describe("an edit", () => {
  it("is sent after a moment, several as one, and then forgotten here", async () => {
    const one = saver();
    for (const side of [10, 11, 12]) one.edit("p", 0, boxes(side));
    expect(localStorage.length).toBe(1);
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.puts).toBe(1);
    expect(server.photo("p").boxes).toEqual(boxes(12).boxes);
    expect(localStorage.length).toBe(0);
    expect(one.waiting).toBe(0);
  });

  it("made while another is on its way goes on top of that one", async () => {
    const one = saver();
    const put = server.put;
    let answer = () => {};
    vi.spyOn(server, "put").mockImplementationOnce(async (...all: Parameters<typeof put>) => {
      await new Promise<void>((resolve) => {
        answer = resolve;
      });
      return put(...all);
    });
    const slow = new Saver((...all) => server.put(...all), localStorage, "pending:", {
      ...events,
      changed: () => undefined,
    } as never);
    slow.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(1000);
    slow.edit("p", 0, boxes(10, 20));
    answer();
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.photo("p").revision).toBe(2);
    expect(server.photo("p").boxes).toEqual(boxes(10, 20).boxes);
    expect(events.conflict).not.toHaveBeenCalled();
    expect(one.waiting).toBe(0);
  });

  it("is made again until the server is back, and lies here meanwhile", async () => {
    server.fails = Array.from({ length: 5 }, OFFLINE);
    const one = saver();
    one.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(2000);
    expect(one.trouble).toBe("offline");
    expect(localStorage.length).toBe(1);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(server.photo("p").revision).toBe(1);
    expect(one.trouble).toBeNull();
  });

  it("survives a page that is closed before it was sent", async () => {
    server.fails = Array.from({ length: 99 }, OFFLINE);
    saver().edit("p", 0, boxes(10));
    server.fails = [];
    const later = saver();
    expect(later.resume()).toEqual(["p"]);
    expect(later.pending("p")).toEqual(boxes(10));
    expect(await later.flush("p")).toBe(true);
    expect(server.photo("p").boxes).toEqual(boxes(10).boxes);
  });

  it("whose answer was lost is no conflict", async () => {
    await server.put("p", 0, boxes(10));
    const one = saver();
    one.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(1000);
    expect(events.conflict).not.toHaveBeenCalled();
    expect(one.waiting).toBe(0);
  });

  it("that the server refuses is kept and not made again by itself", async () => {
    server.fails = [new ApiError(422, "E_VALUE", "a box must have an area")];
    const one = saver();
    one.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(server.puts).toBe(1);
    expect(events.refused).toHaveBeenCalledOnce();
    expect(localStorage.length).toBe(1);
    one.edit("p", 0, boxes(20));
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.photo("p").boxes).toEqual(boxes(20).boxes);
  });

  it("goes if somebody lets it go, and others wait on", async () => {
    server.fails = [new ApiError(422, "E_VALUE", "no"), OFFLINE()];
    const one = saver();
    one.edit("p", 0, boxes(10));
    one.edit("q", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(200);
    expect([...one.troubles]).toEqual([
      ["p", "refused"],
      ["q", "offline"],
    ]);
    one.discard("p");
    expect([[...one.troubles], one.waiting]).toEqual([[["q", "offline"]], 1]);
    await vi.advanceTimersByTimeAsync(5000);
    expect([server.puts, one.waiting, localStorage.length]).toEqual([3, 0, 0]);
  });

  it("goes with a photo that is not there any more", async () => {
    server.fails = [new ApiError(404, "E_UNKNOWN", "no such photo")];
    const one = saver();
    one.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(events.refused).toHaveBeenCalledOnce();
    expect([server.puts, one.waiting, one.trouble, localStorage.length]).toEqual([1, 0, null, 0]);
  });

  it("stays away if it was let go while it was sent", async () => {
    const one = saver();
    one.edit("p", 0, boxes(10));
    const sent = one.flush("p");
    one.edit("p", 0, boxes(20));
    one.discard("p");
    await sent;
    expect([one.waiting, localStorage.length]).toEqual([0, 0]);
  });
});

describe("a conflict", () => {
  async function met(): Promise<Saver> {
    await server.put("p", 0, boxes(50));
    const one = saver();
    one.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(events.conflict).toHaveBeenCalledOnce();
    expect(one.trouble).toBe("conflict");
    expect(localStorage.length).toBe(1);
    return one;
  }

  it("waits for a person, who keeps what is here", async () => {
    const one = await met();
    one.resolve("p", 1, boxes(10));
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.photo("p").boxes).toEqual(boxes(10).boxes);
    expect(one.waiting).toBe(0);
  });

  it("or what is there", async () => {
    const one = await met();
    one.resolve("p", 1, null);
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.photo("p").boxes).toEqual(boxes(50).boxes);
    expect(localStorage.length).toBe(0);
  });

  it("of a second photo comes up once the first is resolved", async () => {
    await server.put("q", 0, boxes(60));
    const one = await met();
    one.edit("q", 0, boxes(11));
    await vi.advanceTimersByTimeAsync(1000);
    one.resolve("p", 1, null);
    one.again();
    await vi.advanceTimersByTimeAsync(1000);
    expect(events.conflict.mock.calls.map(([current]) => current.photo)).toEqual(["p", "q", "q"]);
  });
});

it("what is kept and is no edit is thrown away", () => {
  localStorage.setItem("pending:p", "{ not json");
  expect(saver().resume()).toEqual([]);
  expect(localStorage.length).toBe(0);
});

describe("a class that gets another name", () => {
  const names = () => server.photo("p").boxes?.map(({ name }) => name);

  it("is sent by its new name, also after the page was closed", async () => {
    server.fails = [OFFLINE()];
    const one = saver();
    one.edit("p", 0, boxes(10));
    await vi.advanceTimersByTimeAsync(200);
    one.rename({ name: "a", new: "b" });
    expect(localStorage.getItem("pending:p")).toContain('"name":"b"');
    await vi.advanceTimersByTimeAsync(5000);
    expect(names()).toEqual(["b"]);
  });

  it("is sent again if the old name was on its way", async () => {
    const one = saver();
    one.edit("p", 0, boxes(10));
    const sent = one.flush("p");
    one.rename({ name: "a", new: "b" });
    await sent;
    expect(names()).toEqual(["b"]);
    expect([server.puts, one.waiting, localStorage.length]).toEqual([2, 0, 0]);
  });
});
