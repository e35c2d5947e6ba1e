"use strict";
{
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Pictures: one tile of all trials at one epoch, with a wipe that all of them share.
  const galleries = JSON.parse(document.getElementById("picture-data").textContent);
  all(".gallery").forEach((element) => {
    const gallery = galleries[Number(element.dataset.gallery)];
    const target = element.querySelector("img.target").src;
    const epoch = element.querySelector(".epoch");
    const wipe = element.querySelector(".wipe");

    all(".wiped", element).forEach((frame) => {
      const under = new Image();
      under.className = "under";
      under.alt = "";
      under.src = target;
      frame.prepend(under);
    });
    const showTile = (tile) => element.style.setProperty("--tile", tile);
    const showEpoch = () => {
      const index = Number(epoch.value);
      const asked = gallery.epochs[index];
      element.querySelector(".epoch-shown").textContent = asked;
      epoch.setAttribute("aria-valuetext", `epoch ${asked}`);
      all("[data-frame]", element).forEach((item) => {
        const frame = gallery.frames[Number(item.dataset.frame)];
        const place = frame.places[index];
        const image = item.querySelector(".generated");
        image.hidden = place === null;
        if (place !== null) image.src = frame.strips[place];
        item.querySelector(".at-epoch").textContent =
          place === null ? "no picture so early" : `epoch ${frame.epochs[place]}`;
      });
    };
    const showWipe = (percent) => {
      const value = Math.round(Math.min(100, Math.max(0, percent)));
      wipe.value = value;
      wipe.setAttribute("aria-valuetext", `${value} percent target`);
      element.querySelector(".wipe-shown").textContent = `${value} %`;
      element.style.setProperty("--wipe", `${value}%`);
      element.style.setProperty("--wiping", value > 0 && value < 100 ? 1 : 0);
    };
    const wipeTo = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      showWipe((100 * (event.clientX - box.left)) / box.width);
    };
    all(".tile-choice input", element).forEach((input) => input.addEventListener("change", () => showTile(input.value)));
    all(".tile-choice input", element).filter((input) => input.checked).forEach((input) => showTile(input.value));
    epoch.addEventListener("input", showEpoch);
    wipe.addEventListener("input", () => showWipe(Number(wipe.value)));
    all(".wiped", element).forEach((frame) => {
      frame.addEventListener("pointerdown", wipeTo);
      frame.addEventListener("pointermove", (event) => {
        if (event.buttons & 1) wipeTo(event);
      });
    });
    // A browser may bring sliders back as they were left.
    showEpoch();
    showWipe(Number(wipe.value));
  });

  // The table: by a column's values, empty ones always last.
  all("table.trials").forEach((table) => {
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.sort;
        const compare = (a, b) => {
          if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
          const difference = Number(key(a)) - Number(key(b));
          const order = Number.isNaN(difference) ? key(a).localeCompare(key(b), "en", { numeric: true }) : difference;
          return up ? order : -order;
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  });

  // A table of all trials: the rows whose name or status contains what is typed.
  all(".filter input").forEach((input) => {
    const rows = all("tbody tr", input.closest("details"));
    const text = rows.map((row) => `${row.cells[0].dataset.sort} ${row.cells[1].dataset.sort}`.toLowerCase());
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      rows.forEach((row, index) => {
        row.hidden = !text[index].includes(wanted);
      });
    });
  });

  // Curves: the axis, which trials are shown, and the one that is pointed at.
  all(".curves").forEach((curves) => {
    const lines = all(".plot [data-trial]", curves); // and what is marked on them
    const light = (trial) =>
      lines.forEach((line) => {
        line.classList.toggle("dim", trial !== null && line.dataset.trial !== trial);
        line.classList.toggle("lit", trial !== null && line.dataset.trial === trial);
      });
    all(".unit-choice input", curves).forEach((input) => {
      const choose = () => {
        curves.dataset.unit = input.value;
        const shown = input.value === "images" ? "images seen" : input.value;
        all(".unit-shown", curves).forEach((place) => (place.textContent = shown));
      };
      input.addEventListener("change", choose);
      if (input.checked) choose();
    });
    all(".legend li", curves).forEach((item) => {
      const trial = item.dataset.trial;
      const box = item.querySelector(".show");
      const show = () =>
        lines.filter((line) => line.dataset.trial === trial).forEach((line) => line.classList.toggle("off", !box.checked));
      box.addEventListener("change", show);
      show();
      item.addEventListener("pointerenter", () => light(trial));
      item.addEventListener("pointerleave", () => light(null));
      item.addEventListener("focusin", () => light(trial));
      item.addEventListener("focusout", () => light(null));
    });
    const names = all(".legend li", curves).map((item) => item.textContent.trim());
    all(".chart", curves).forEach((chart) => {
      const svg = chart.querySelector("svg");
      const readout = chart.querySelector(".readout");
      const points = new Map();
      const pointsOf = (line) => {
        if (!points.has(line)) {
          const numbers = line.getAttribute("d").match(/-?[\d.]+/g).map(Number);
          points.set(line, Array.from({ length: numbers.length >> 1 }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]));
        }
        return points.get(line);
      };
      const { low, high, log } = chart.dataset;
      const valueAt = (y) => {
        const share = 1 - y / 100;
        const value = log ? low * (high / low) ** share : Number(low) + share * (high - low);
        return Number(value.toPrecision(3));
      };
      // The strongest line of each trial that is shown: its means, or else what was logged.
      const candidates = () => {
        const shown = new Map();
        all(".line:not(.off)", svg).forEach((line) => shown.set(line.dataset.trial, line));
        return [...shown.values()];
      };
      svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect();
        const x = (1000 * (event.clientX - box.left)) / box.width;
        const y = (100 * (event.clientY - box.top)) / box.height;
        let best = null;
        candidates().forEach((line) => {
          const share = Number(getComputedStyle(line).getPropertyValue(`--${curves.dataset.unit}`));
          const at = share > 0 ? pointsOf(line).reduce((a, b) => (Math.abs(b[0] * share - x) < Math.abs(a[0] * share - x) ? b : a)) : null;
          if (at && (best === null || Math.abs(at[1] - y) < best.distance)) {
            best = { line, distance: Math.abs(at[1] - y), value: valueAt(at[1]) };
          }
        });
        if (best === null) return;
        light(best.line.dataset.trial);
        readout.textContent = `${names[Number(best.line.dataset.trial)]}: ${best.value}`;
      });
      svg.addEventListener("pointerleave", () => {
        light(null);
        readout.textContent = "";
      });
    });
  });
}
