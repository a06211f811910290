"use strict";
// Any two rows compared item by item from the bits in the page's data, and their answers side by side. Texts are set
// as text, never as markup.
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

const sideBySide = (() => {
  const Z = 1.959963984540054;
  const MORE = 10;  // items that are shown at once
  const HEADS = ["task", "b is", "b \u2212 a", "95 % interval", "a", "b", "n", "only a right", "only b right", "p",
    "p (Holm)"];
  const SETS = {
    "": (a, b) => a !== b, lost: (a, b) => a && !b, won: (a, b) => !a && b, right: (a, b) => a && b,
    wrong: (a, b) => !a && !b, all: () => true,
  };

  const bytes = (text) => Uint8Array.from(atob(text), (mark) => mark.charCodeAt(0));
  const bit = (held, place) => (held[place >> 3] >> (7 - (place & 7))) & 1;

  // The items that both rows have a score of, with both bits; null if a row has none.
  const paired = (task, a, b) => {
    if (!task.bits[a] || !task.bits[b]) return null;
    const [first, second] = [a, b].map((row) => task.bits[row].map((text) => (text ? bytes(text) : null)));
    const items = [];
    for (let place = 0; place < task.n; place += 1) {
      if ((!first[1] || bit(first[1], place)) && (!second[1] || bit(second[1], place))) {
        items.push({ place, a: bit(first[0], place), b: bit(second[0], place) });
      }
    }
    return items;
  };

  // Two-sided exact test of lost against won items: twice the smaller tail of fair coins, at most 1.
  const mcnemar = (lost, won) => {
    const all = lost + won;
    let term = -all * Math.LN2;  // log of a probability
    let tail = 0;
    for (let few = 0; few <= Math.min(lost, won); few += 1) {
      tail += Math.exp(term);
      term += Math.log((all - few) / (few + 1));
    }
    return Math.min(1, 2 * tail);
  };

  const difference = (task, items) => {
    const n = items.length;
    const count = (test) => items.reduce((sum, one) => sum + (test(one.a, one.b) ? 1 : 0), 0);
    const [lost, won] = [count(SETS.lost), count(SETS.won)];
    const gap = (won - lost) / n;
    const [down, up] = [(lost + 1) / (n + 2), (won + 1) / (n + 2)];
    const wide = Z * Math.sqrt((down + up - (up - down) ** 2) / (n + 2));
    return { task, n, lost, won, gap, a: count((a) => a) / n, b: count((a, b) => b) / n,
      low: Math.max(-1, Math.min(gap, up - down - wide)), high: Math.min(1, Math.max(gap, up - down + wide)),
      p: mcnemar(lost, won) };
  };

  const holm = (values) => {
    const order = values.map((value, place) => [value, place]).sort((one, other) => one[0] - other[0]);
    const adjusted = [];
    let most = 0;
    order.forEach(([value, place], rank) => {
      most = Math.max(most, Math.min(1, value * (values.length - rank)));
      adjusted[place] = most;
    });
    return adjusted;
  };

  const percent = (share, signed) => {
    const text = (100 * Math.abs(share)).toFixed(1);
    const sign = Number(text) === 0 ? (signed ? "\u00b1" : "") : share < 0 ? "\u2212" : signed ? "+" : "";
    return sign + text;
  };
  const chance = (p) => (p === undefined ? "\u2013" : p < 0.001 ? "< 0.001" : p.toFixed(3));

  const word = (one, a, b) => {
    if (one.lost + one.won === 0) return "no item differs";
    if (one.early) return "ended early: no test here";
    if (one.task.engines && one.task.engines[a] !== one.task.engines[b]) return "no verdict: answered by two engines";
    if (Math.abs(one.gap) <= one.task.noise) return "inside the noise";
    if (one.adjusted >= 0.05) return "no difference shown";
    return (one.gap > 0) === one.task.up ? "better" : "worse";
  };

  const headed = (table) => {
    const line = element("tr");
    HEADS.forEach((text) => {
      const head = element("th", text);
      head.scope = "col";
      line.append(head);
    });
    table.tHead.replaceChildren(line);
  };

  const row = (one, a, b) => {
    const made = element("tr");
    const name = element("th", one.task.title);
    name.append(element("small", one.task.metric));
    name.scope = "row";
    const said = word(one, a, b);
    const interval = `${percent(one.low, true)} to ${percent(one.high, true)}`;
    const numbers = [percent(one.gap, true), one.early ? "\u2013" : interval, percent(one.a), percent(one.b), one.n,
      one.lost, one.won, chance(one.early ? undefined : one.p), chance(one.adjusted)];
    made.append(name, ...[said, ...numbers].map((text) => element("td", text)));
    if (said === "better" || said === "worse") [1, 2].forEach((place) => made.cells[place].classList.add(said));
    return made;
  };

  const answer = (label, right, text) => {
    const line = element("tr");
    const name = element("th", label);
    name.scope = "row";
    const said = element("td", null, "text");
    if (text === null) said.append(element("span", "(not in the page)", "quiet"));
    else said.append(text === "" ? element("span", "(empty)", "quiet") : element("bdi", text, "said"));
    const mark = element("td");
    mark.append(element("span", right ? "\u2713" : "\u2717", "tick-mark"),
      element("span", right ? " right" : " wrong", "unseen"));
    line.append(name, said, mark);
    return line;
  };

  const card = (item, told, task, rows, chosen) => {
    const made = element("div", null, "item");
    const about = element("p", told && told[3] ? `${told[3]}. Item ${item.place + 1}.` : `Item ${item.place + 1}.`,
      "quiet");
    const table = element("table");
    const body = element("tbody");
    [["a", item.a], ["b", item.b]].forEach(([side, right]) => {
      const at = told ? task.shown.indexOf(chosen[side]) : -1;
      const which = at < 0 ? -1 : told[5][at];
      body.append(answer(`${side}: ${rows[chosen[side]]}`, right, which < 0 ? null : told[4][which]));
    });
    table.append(body);
    const around = element("div", null, "scroll");
    around.append(table);
    if (told) {
      about.append(" Expected: ", element("bdi", told[2], "said"));
      const quote = element("blockquote");
      quote.append(element("bdi", told[1]));
      made.append(about, quote, around);
    } else made.append(about, around);
    return made;
  };

  // Fills a section's comparison and keeps it so; returns its controls by the names that links have.
  return (section, data) => {
    const part = section.querySelector(".pair");
    if (!part || !data.tasks.length) return {};
    const [a, b, asked, which] = ["a", "b", "asked", "which"].map((name) => part.querySelector(`[name=${name}]`));
    const [table, list, more] = [".pairs", ".items", ".more"].map((name) => part.querySelector(name));
    const count = part.querySelector("span[role=status]");
    const known = data.rows.filter((_, row) => data.tasks.some((task) => task.bits[row]));
    const told = known.filter((label) => data.tasks.some((task) => task.shown.includes(data.rows.indexOf(label))));
    [[a, known[0]], [b, told.find((label) => label !== known[0]) || known[1]]].forEach(([control, usual]) => {
      control.append(...known.map((label) => new Option(label, label)));
      control.value = usual;
      control.dataset.usual = usual;
    });
    asked.append(...data.tasks.map((task, place) => new Option(task.title, place)));
    asked.dataset.usual = "0";
    headed(table);

    let left = [];
    const show = () => {
      const task = data.tasks[Number(asked.value)] || data.tasks[0];
      const told = new Map(task.texts.map((item) => [item[0], item]));
      const chosen = { a: data.rows.indexOf(a.value), b: data.rows.indexOf(b.value) };
      list.append(...left.splice(0, MORE).map((item) => card(item, told.get(item.place), task, data.rows, chosen)));
      more.hidden = left.length === 0;
      more.textContent = `${Math.min(MORE, left.length)} more of ${left.length}`;
    };
    const pick = () => {
      const task = data.tasks[Number(asked.value)] || data.tasks[0];
      const place = new Map(task.texts.map((item, at) => [item[0], at]));
      const all = paired(task, data.rows.indexOf(a.value), data.rows.indexOf(b.value)) || [];
      left = all.filter((item) => SETS[which.value](item.a, item.b));
      left.sort((one, other) => (place.get(one.place) ?? task.n) - (place.get(other.place) ?? task.n)
        || one.place - other.place);
      const texts = left.filter((item) => place.has(item.place)).length;
      count.textContent = `${left.length} of ${all.length} items`
        + (texts < left.length ? `, ${texts} with their texts` : "");
      list.replaceChildren();
      show();
    };
    const compare = () => {
      const chosen = [a, b].map((control) => data.rows.indexOf(control.value));
      const found = data.tasks.map((task) => [task, paired(task, ...chosen)]).filter(([, items]) => items?.length)
        .map(([task, items]) => difference(task, items));
      found.forEach((one) => { one.early = chosen.some((at) => one.task.early.includes(at)); });
      const tests = found.filter((one) => !one.early);
      holm(tests.map((one) => one.p)).forEach((p, place) => { tests[place].adjusted = p; });
      table.tBodies[0].replaceChildren(...found.map((one) => row(one, ...chosen)));
      table.caption.textContent = `${b.value} compared with ${a.value}: ${found.length} tasks`;
      pick();
    };
    [a, b].forEach((control) => control.addEventListener("change", compare));
    [asked, which].forEach((control) => control.addEventListener("change", pick));
    more.addEventListener("click", show);
    part.hidden = false;
    compare();
    return { a, b, asked, which };
  };
})();
