// The slider of a report: it writes anew what depends on the threshold. The numbers were measured
// when the page was made; nothing is loaded.
(() => {
  const data = JSON.parse(document.getElementById("live-data").textContent);
  const slider = document.getElementById("threshold");
  const all = (selector, root) => [...(root || document).querySelectorAll(selector)];
  const texts = all("[data-live]");
  const markers = all("[data-low]");
  const cells = all("[data-cell]");
  const rows = all("[data-row]");
  const stages = all(".stage").map((stage) => ({
    boxes: all("[data-from], [data-until]", stage),
    note: stage.parentElement.querySelector("[data-counts]"),
  }));

  function fillMatrix(step) {
    const sides = data.names.length;
    const counts = new Array(sides * sides).fill(0);
    data.confusion[step].forEach(([place, count]) => { counts[place] = count; });
    const total = (row) => counts.slice(row * sides, (row + 1) * sides).reduce((a, b) => a + b, 0);
    const totals = data.names.map((_, row) => total(row));
    rows.forEach((text) => { text.textContent = totals[text.dataset.row].toLocaleString("en"); });
    cells.forEach((cell) => {
      const place = Number(cell.dataset.cell);
      const row = Math.floor(place / sides);
      const column = place % sides;
      const share = counts[place] / Math.max(1, totals[row]);
      const verb = row === column ? "recognised" : `taken for ${data.names[column]}`;
      cell.setAttribute("display", counts[place] ? "inline" : "none");
      cell.querySelector("title").textContent =
        `${data.names[row]} ${verb}: ${counts[place]} of ${totals[row]}`;
      cell.querySelector("rect").setAttribute("fill-opacity", Math.max(share, 0.12));
      const text = cell.querySelector("text");
      if (text) {
        text.textContent = counts[place];
        text.setAttribute("class", share > 0.5 ? "over" : "value");
      }
    });
  }

  function covers(a, b) {
    const width = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
    const height = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
    return width > 0 && height > 0 && width * height > data.cover * Math.min(a[2] * a[3], b[2] * b[3]);
  }

  function fillStage({ boxes, note }, threshold) {
    const counts = { tp: 0, fp: 0, fn: 0 };
    const shown = boxes.filter((box) => {
      const { from, until } = box.dataset;
      const on = until === undefined ? Number(from) >= threshold : Number(until) < threshold;
      box.setAttribute("display", on ? "inline" : "none");
      if (on) counts[box.getAttribute("class")] += 1;
      return on;
    });
    const taken = [];
    shown.forEach((box) => { // the mistakes come first
      const tag = box.querySelector("[data-place]");
      const place = tag.dataset.place.split(" ").map(Number);
      const crowded = counts.tp > data.crowd && box.getAttribute("class") === "tp";
      const fits = !crowded && !taken.some((other) => covers(place, other));
      tag.setAttribute("display", fits ? "inline" : "none");
      if (fits) taken.push(place);
    });
    const words = data.words.filter(([kind]) => counts[kind])
      .map(([kind, one, many]) => `${counts[kind]} ${counts[kind] === 1 ? one : many}`);
    note.textContent = words.join(", ") || data.nothing;
  }

  function show() {
    const step = Number(slider.value);
    const threshold = data.thresholds[step];
    slider.setAttribute("aria-valuetext", data.texts[0][step]);
    texts.forEach((text) => { text.textContent = data.texts[text.dataset.live][step]; });
    markers.forEach((line) => {
      const { low, high, start, stop } = line.dataset;
      const share = (threshold - low) / (high - low || 1);
      const x = Number(start) + share * (stop - start);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    });
    if (data.confusion.length) fillMatrix(step);
    stages.forEach((stage) => fillStage(stage, threshold));
  }

  document.getElementById("threshold-bar").hidden = false;
  slider.addEventListener("input", show);
  show(); // a browser that goes back to a page keeps where the slider was
})();
