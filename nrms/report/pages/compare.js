// Shows the pair of runs that is chosen: the difference, where it lies, and examples. All numbers and titles stand in the page.
"use strict";
const data = document.querySelector("#data") && JSON.parse(document.querySelector("#data").textContent);
if (data) {
  const space = "http://www.w3.org/2000/svg", svg = new Set(["svg", "g", "line", "circle", "text"]);
  const form = document.querySelector("#pair"), shown = document.querySelector("#shown"), { a, b } = form.elements;

  function make(tag, facts = {}, ...inside) { // an element whose texts are text, whatever stands in them
    const element = svg.has(tag) ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  }

  const signed = (x) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(3);
  const probability = (p) => p < 0.001 ? "< 0.001" : p.toFixed(3);
  const span = (t) => `${signed(t.low)} to ${signed(t.high)}`;
  const title = (item) => data.titles[item] || `item ${item}`;

  function pairOf(first, second) { // the numbers of a pair are kept once, for the smaller place minus the larger
    const flip = first > second, low = Math.min(first, second), high = Math.max(first, second);
    const [numbers, forth, back] = data.pairs[high * (high - 1) / 2 + low];
    const tests = numbers.map(([mean, below, above, p, n, seeds], at) => ({
      name: data.slices[at], p, n, seeds, mean: flip ? -mean : mean, low: flip ? -above : below, high: flip ? -below : above,
    })).filter((t) => t.n > 1);
    const turn = (e) => flip ? { ...e, a: e.b, b: e.a, ranked: e.ranked.map(([item, x, y, right]) => [item, y, x, right]).sort(byRank) } : e;
    return { tests, forth: (flip ? back : forth).map(turn), back: (flip ? forth : back).map(turn) };
  }
  const byRank = (x, y) => (x[1] ?? Infinity) - (y[1] ?? Infinity) || (x[2] ?? Infinity) - (y[2] ?? Infinity);

  function sentence(t, first, second) {
    const whose = t.seeds && t.seeds < data.fewest_seeds ? "of these trainings, over users" : t.seeds ? "over seeds and users" : "over users";
    return make("p", { class: "answer" }, make("b", {}, `${first} against ${second}: ${data.label} ${signed(t.mean)}`),
      ` (95 % interval ${span(t)}, ${whose}; p ${probability(t.p)}; n = ${t.n.toLocaleString("en")} ${data.units}).`);
  }

  function table(head, lines) {
    const row = (tag, cells, facts) => make("tr", facts, ...cells.map((text, i) => make(tag, i ? { class: "n" } : {}, text)));
    return make("div", { class: "wrap" }, make("table", {}, make("thead", {}, row("th", head)), make("tbody", {}, ...lines.map(([cells, facts]) => row("td", cells, facts)))));
  }

  function drawing(tests) {
    const low = Math.min(0, ...tests.map((t) => t.low)), high = Math.max(0, ...tests.map((t) => t.high)), row = 20, left = 165, width = 430;
    const x = (value) => left + 10 + (value - low) / (high - low || 1) * (width - left - 20), bottom = tests.length * row + 4;
    const picture = make("svg", { class: "panel", viewBox: `0 0 ${width} ${bottom + 18}`, role: "img", "aria-label": "differences by slice" });
    picture.append(make("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: bottom }));
    tests.forEach((t, i) => {
      const y = i * row + row / 2 + 2;
      picture.append(make("g", { class: "model" }, make("text", { x: 0, y: y + 4 }, t.name),
        make("line", { class: "span", x1: x(t.low), x2: x(t.high), y1: y, y2: y }), make("circle", { class: "dot", cx: x(t.mean), cy: y, r: 4 })));
    });
    for (const value of new Set([low, 0, high])) picture.append(make("text", { class: "dim", x: x(value), y: bottom + 14, "text-anchor": value === low && low < 0 ? "start" : value === high && high > 0 ? "end" : "middle" }, value ? signed(value) : "0"));
    return picture;
  }

  function example(e, first, second) {
    const before = e.before.length ? [make("p", {}, make("span", { class: "dim" }, "read before: "), e.before.map(title).join(" · "))] : [];
    const lines = e.ranked.map(([item, x, y, right]) => [[title(item), right ? "yes" : "", x === null ? "" : `${+x.toFixed(1)}`, y === null ? "" : `${+y.toFixed(1)}`], right ? { class: "right" } : {}]);
    const of = e.of ? `, ${e.of} candidates` : "";
    const ranks = lines.length ? [table(["item", "chosen", `rank by ${first}`, `rank by ${second}`], lines)] : [make("p", {}, "What was shown there is not in the data folder any more.")];
    return make("div", { class: "example" }, make("p", { class: "dim" }, `${data.unit} ${e.id}${of}: ${data.label} ${e.a.toFixed(3)} by ${first}, ${e.b.toFixed(3)} by ${second}`), ...before, ...ranks);
  }

  function side(examples, above, first, second) {
    const none = examples.length ? [] : [make("p", {}, "Nowhere.")];
    return make("section", {}, make("h2", {}, `Where ${above} is most above the other`), ...none, ...examples.map((e) => example(e, first, second)));
  }

  function show() {
    const first = data.rows[a.value], second = data.rows[b.value];
    if (a.value === b.value) return shown.replaceChildren(make("p", { class: "answer" }, "Choose two different runs."));
    const { tests, forth, back } = pairOf(+a.value, +b.value);
    if (!tests.length || tests[0].name !== "all") return shown.replaceChildren(make("p", { class: "answer" }, `${first} and ${second} have no ${data.units} in common.`));
    const lines = tests.map((t) => [[t.name, signed(t.mean), span(t), probability(t.p), t.n.toLocaleString("en")], {}]);
    shown.replaceChildren(sentence(tests[0], first, second),
      make("div", { class: "sides" }, make("figure", {}, drawing(tests), make("figcaption", {}, `${data.label}: ${first} minus ${second}, by slice, with 95 % interval`)),
        table(["slice", "difference", "95 % interval", "p", "n"], lines)),
      make("div", { class: "sides" }, side(forth, first, first, second), side(back, second, first, second)));
  }

  function fromAddress() {
    const state = new URLSearchParams(location.hash.slice(1)), order = ["model", "baseline", "ceiling"];
    const best = [...data.rows.keys()].sort((i, j) => order.indexOf(data.kinds[i]) - order.indexOf(data.kinds[j]) || data.means[j] - data.means[i]);
    a.value = state.get("a") in data.rows ? state.get("a") : best[0];
    b.value = state.get("b") in data.rows ? state.get("b") : best[1];
    show();
  }
  function toAddress() {
    history.replaceState(null, "", `#a=${a.value}&b=${b.value}`);
    show();
  }
  form.hidden = false;
  form.addEventListener("change", toAddress);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", () => { [a.value, b.value] = [b.value, a.value]; toAddress(); });
  addEventListener("hashchange", () => { fromAddress(); scrollTo(0, 0); });
  fromAddress();
}
