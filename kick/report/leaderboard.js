// Sorting, filters and the metrics other than the headline. Texts come ready from the page's data; every one is set
// as text, never as markup. The page is complete without this.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const HEADS = ["score", "95 % interval", "gap to dense", "95 % interval of the gap", "verdict", "p", "p (Holm)",
    "n", "right to wrong", "wrong to right"];

  const ROWS = 250;  // that are drawn at first

  const make = element;

  const order = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return null;
    if (cell.dataset.order !== undefined) return cell.dataset.order === "" ? null : Number(cell.dataset.order);
    return cell.textContent.trim().toLowerCase();
  };

  // Dense rows stay on top and rows without a value at the end, whichever way it is sorted.
  const sort = (table, column, down) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place, dense: row.classList.contains("dense"),
      value: order(row, column) }));
    rows.sort((a, b) => {
      if (a.dense !== b.dense) return a.dense ? -1 : 1;
      if ((a.value === null) !== (b.value === null)) return a.value === null ? 1 : -1;
      const sign = a.value < b.value ? -1 : a.value > b.value ? 1 : 0;
      return (down ? -sign : sign) || a.place - b.place;
    });
    body.replaceChildren(...rows.map(({ row }) => {
      row.hidden = true;  // whoever listens shows those that are to be seen
      return row;
    }));
    table.dispatchEvent(new Event("sorted", { bubbles: true }));
  };

  const ordered = (table, column, down) => {
    const heads = [...table.tHead.rows[0].cells];
    if (!heads[column]) return;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(table, column, down);
  };

  // A click on a head sorts; `told`, if there is one, is a control that keeps the order and does it.
  const sortable = (table, told) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const down = now === null ? column > 0 : now === "ascending";
        if (!told) return ordered(table, column, down);
        told.value = `${column}${down ? "d" : "u"}`;
        told.dispatchEvent(new Event("input"));
      });
    });
    told?.addEventListener("input", () => ordered(table, Number.parseInt(told.value, 10), told.value.endsWith("d")));
  };

  const buttons = (table, told) => {
    table.querySelectorAll("thead [data-sort]").forEach((label) => {
      const button = make("button", label.textContent);
      button.type = "button";
      label.replaceWith(button);
    });
    sortable(table, told);
  };

  const detail = (table, metric, lines) => {
    const head = make("tr");
    ["variant", ...HEADS].forEach((text) => {
      const cell = make("th");
      cell.scope = "col";
      const label = make("span", text);
      label.dataset.sort = "";
      cell.append(label);
      head.append(cell);
    });
    table.tHead.replaceChildren(head);
    const body = table.tBodies[0];
    body.replaceChildren();
    lines.forEach((line) => {
      const values = metric.cells[line.label];
      if (!values) return;
      const row = make("tr", null, line.kindClass);
      const name = make("th", line.label);
      name.scope = "row";
      row.append(name);
      HEADS.forEach((_, place) => {
        const verdict = values[4];
        const cell = make("td", values[place] === null ? "\u2013" : values[place],
          place === 4 || place === 2 ? verdict.replaceAll(" ", "-") : "");
        if (place === 4 && values[11]) cell.append(make("small", values[11], "remark"));
        if (place === 0) cell.dataset.order = values[10] === null ? "" : values[10];
        if (place === 2) cell.dataset.order = number(values[2]);
        if (place >= 5) cell.dataset.order = values[place] === null ? "" : number(String(values[place]).split(" of ")[0]);
        row.append(cell);
      });
      body.append(row);
    });
    buttons(table);
  };

  // A link keeps the view: the controls of each section are in the address behind the #, and are read from there.
  const kept = (section, controls) => {
    const mine = `s${section.dataset.section}-`;
    const told = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    const read = () => {
      const found = told();
      Object.entries(controls).forEach(([name, control]) => {
        const value = found.get(mine + name);
        if (value === null) return;
        if (control.type === "checkbox") control.checked = value === "1";
        else control.value = value;
        if (control.dataset.usual && control.value === "") control.value = control.dataset.usual;  // not in these results
        if (control.value === undefined) return;
        control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
        if (name === "kind") control.dispatchEvent(new Event("input"));
      });
    };
    const write = () => {
      const found = told();
      Object.entries(controls).forEach(([name, control]) => {
        const value = control.type === "checkbox" ? (control.checked ? "1" : "") : control.value;
        if (value === "" || value === control.dataset.usual || (name === "metric" && controls.view.value === "")) found.delete(mine + name);
        else found.set(mine + name, value);
      });
      const text = found.toString();
      try {
        history.replaceState(null, "", text ? `#${text}` : location.pathname);
      } catch (refused) {
        location.hash = text;  // some browsers refuse to change the address of a file
      }
    };
    Object.values(controls).forEach((control) => ["input", "change"].forEach((event) =>
      control.addEventListener(event, () => { if (!reading) write(); })));
    let reading = true;
    read();
    reading = false;
  };

  const number = (text) => {
    const plain = text.replace("\u2212", "-").replace(/[<+\u00b1, ]/g, "");
    return plain === "" || Number.isNaN(Number(plain)) ? "" : plain;
  };

  document.querySelectorAll("section[data-section]").forEach((section) => {
    const mine = data[Number(section.dataset.section)];
    const overview = section.querySelector("table.overview");
    const other = section.querySelector("table.detail");
    const controls = section.querySelector(".controls");
    const [view, metric] = [controls.querySelector("[name=view]"), controls.querySelector("[name=metric]")];
    const [words, kind] = [controls.querySelector("[name=words]"), controls.querySelector("[name=kind]")];
    const replicas = controls.querySelector("[name=replicas]");
    const count = section.querySelector(".count");
    const sorted = controls.querySelector("[name=sort]");
    buttons(overview, sorted);
    const lines = [...overview.tBodies[0].rows].map((row) => ({ label: row.dataset.label, kind: row.dataset.kind,
      dense: row.classList.contains("dense"), replica: row.classList.contains("replica"), kindClass: row.className,
      text: `${row.dataset.label} ${row.dataset.name}`.toLowerCase() }));

    const all = controls.parentNode.querySelector(".all");
    let most = ROWS;
    // Of very many rows the first ones are drawn: a browser needs longer to lay out a thousand than to sort them.
    const cut = (table) => {
      let left = most;
      [...table.tBodies[0].rows].forEach((row) => {
        row.hidden = row.classList.contains("out") || left === 0;
        if (!row.hidden) left -= 1;
      });
    };

    const filter = () => {
      const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      const shown = new Set(lines.filter((line) => line.dense || (
        (replicas.checked || !line.replica)
        && (kind.value === "" || line.kind === kind.value)
        && asked.every((word) => line.text.includes(word)))).map((line) => line.label));
      [overview, other].forEach((table) => {
        [...table.tBodies[0].rows].forEach((row) => {
          row.classList.toggle("out", !shown.has(row.dataset.label ?? row.cells[0].textContent));
        });
        cut(table);
      });
      count.textContent = `${shown.size} of ${lines.length} rows`;
      all.hidden = shown.size <= most;
      all.textContent = `The first ${most} of ${shown.size} rows are shown; show all`;
    };
    const whole = () => {
      most = Infinity;
      filter();
    };
    all.addEventListener("click", whole);
    window.addEventListener("beforeprint", whole);
    section.addEventListener("sorted", (event) => cut(event.target));

    const choose = () => {
      const task = view.value === "" ? null : mine.tasks[Number(view.value)];
      overview.parentNode.hidden = task !== null;
      other.parentNode.hidden = task === null;
      metric.parentNode.hidden = task === null;
      if (task !== null) {
        const found = task.metrics[Number(metric.value)];
        other.caption.textContent = `${task.title}: ${found.label}`;
        detail(other, found, lines);
      }
      filter();
    };

    mine.tasks.forEach((task, place) => view.append(new Option(task.title, place)));
    view.addEventListener("change", () => {
      const task = view.value === "" ? null : mine.tasks[Number(view.value)];
      metric.replaceChildren(...(task ? task.metrics.map((one, place) => new Option(one.label, place)) : []));
      if (task) metric.value = String(Math.max(0, task.metrics.findIndex((one) => one.primary)));
      choose();
    });
    metric.addEventListener("change", choose);
    [words, kind, replicas].forEach((control) => control.addEventListener("input", filter));
    kept(section, { view, metric, words, kind, replicas, sort: sorted, ...sideBySide(section, mine.pair) });
    controls.hidden = false;
    filter();
  });

  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => {
    one.open = true;
  }));
})();
