"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, properties = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const SVG = byId("blank").namespaceURI;
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  // Okabe and Ito's colours, which are told apart with any colour vision.
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];
  const STEPS = ["#440154", "#443a83", "#31688e", "#21908d", "#35b779", "#8fd744", "#fde725"];
  const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : (100 * share).toFixed(1) + "%");
  const signed = (bits) => (bits < 0 ? "\u2212" : "+") + Math.abs(bits).toFixed(3);

  // What blocks are coloured by: the name of the group that a block is in, all groups, and their colours.
  const size = (block) => block[2] * block[3];
  const sizes = ["up to 64", "65 to 128", "129 to 256", "257 to 512", "513 to 1024", "1025 to 2048", "more than 2048"];
  const grouped = (names, at) => ({ names, of: (block) => names[block[at]], colours: COLOURS });
  const OVERLAYS = {
    weights: null,
    prediction: grouped(data.predictions, 4),
    "transform of columns": grouped(data.transforms, 5),
    "transform of rows": grouped(data.transforms, 6),
    "size of blocks": {
      names: sizes,
      of: (block) => sizes[Math.min(6, Math.max(0, Math.ceil(Math.log2(size(block))) - 6))],
      colours: STEPS,
    },
  };

  data.tensors.forEach(({ tiles }) => tiles.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1]));
  let tensor = null, tile = 0, overlay = "weights", cursor = null;
  const hiddenGroups = new Set();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // A colour of the heat map, for a level of 0 to 1.
  function heat(level, diverging) {
    const between = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
    if (overlay !== "weights") {
      // Grey under colours.
      const most = dark.matches ? [225, 225, 225] : [40, 40, 40], least = dark.matches ? [25, 25, 25] : [250, 250, 250];
      const t = diverging ? Math.abs(level - 0.5) * 2 : level;
      return diverging ? between(least, most, t) : between([15, 15, 15], [245, 245, 245], t);
    }
    if (!diverging) return between([15, 15, 15], [245, 245, 245], level);
    const zero = dark.matches ? [20, 23, 26] : [250, 250, 250];
    const low = dark.matches ? [110, 185, 255] : [5, 80, 160], high = dark.matches ? [255, 160, 90] : [175, 60, 5];
    return level < 0.5 ? between(zero, low, 1 - 2 * level) : between(zero, high, 2 * level - 1);
  }

  function draw() {
    const canvas = byId("canvas"), context = canvas.getContext("2d");
    const { px: pixels, w: width, s: scale, range, sides, blocks } = tile;
    const [rows, columns] = sides;
    const height = pixels.length / width;
    const unit = Math.max(1, Math.min(8, Math.floor(1000 / columns)));
    [canvas.width, canvas.height] = [columns * unit, rows * unit];
    const diverging = range[0] < 0;
    const small = make("canvas", { width, height }), of = small.getContext("2d");
    const image = of.createImageData(width, height);
    for (let i = 0; i < pixels.length; i++) {
      image.data.set([...heat(LETTERS.indexOf(pixels[i]) / 63, diverging), 255], 4 * i);
    }
    of.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width * scale * unit, height * scale * unit);
    const groups = OVERLAYS[overlay];
    for (const block of groups ? blocks : []) {
      const name = groups.of(block);
      if (hiddenGroups.has(name)) continue;
      const [row, column, h, w] = block;
      context.globalAlpha = 0.55;
      context.fillStyle = groups.colours[groups.names.indexOf(name)];
      context.fillRect(column * unit, row * unit, w * unit, h * unit);
    }
    context.globalAlpha = 1;
    context.strokeStyle = dark.matches ? "rgba(255,255,255,.5)" : "rgba(0,0,0,.45)";
    context.lineWidth = 1;
    for (const [row, column, h, w] of byId("partition").checked ? blocks : []) {
      context.strokeRect(column * unit + 0.5, row * unit + 0.5, w * unit, h * unit);
    }
    const under = cursor && blocks.find(([r, c, h, w]) =>
      cursor[0] >= r && cursor[0] < r + h && cursor[1] >= c && cursor[1] < c + w);
    if (under) {
      const [r, c, h, w, prediction, of_columns, of_rows] = under;
      context.strokeStyle = dark.matches ? "#ffffff" : "#000000";
      context.lineWidth = Math.max(3, unit / 2);
      context.strokeRect(c * unit, r * unit, w * unit, h * unit);
      byId("under").textContent = `Block at row ${tile.at[0] + r}, column ${tile.at[1] + c}, ${h} x ${w}: prediction ` +
        `${data.predictions[prediction]}, transform of columns ${data.transforms[of_columns]}, of rows ` +
        `${data.transforms[of_rows]}`;
    } else {
      byId("under").textContent = "Point at the picture, or use the arrow keys in it, to see the choices of a block.";
    }
    canvas.setAttribute("aria-label", `Heat map of ${rows} x ${columns} weights, in ${blocks.length} blocks` +
      (groups ? `, coloured by ${overlay}; shares are in the legend` : ""));
  }

  function drawScale() {
    const range = tile.range, strip = make("canvas", { width: 64, height: 1 }), context = strip.getContext("2d");
    strip.setAttribute("aria-hidden", "true");
    for (let i = 0; i < 64; i++) {
      context.fillStyle = `rgb(${heat(i / 63, range[0] < 0)})`;
      context.fillRect(i, 0, 1, 1);
    }
    byId("scale").replaceChildren(range[0].toFixed(1), strip, `${range[1].toFixed(1)} steps`,
      tile.s > 1 ? ` (means of ${tile.s} x ${tile.s} weights)` : "");
  }

  function drawLegend() {
    const groups = OVERLAYS[overlay];
    byId("legend-box").hidden = !groups;
    if (!groups) return;
    byId("legend-title").textContent = `${overlay}, share of this tile; uncheck to hide`;
    const shares = new Map();
    let all = 0;
    for (const block of tile.blocks) {
      all += size(block);
      shares.set(groups.of(block), (shares.get(groups.of(block)) || 0) + size(block));
    }
    byId("legend").replaceChildren(...groups.names.filter((name) => shares.has(name)).map((name) => {
      const box = make("input", { type: "checkbox", checked: !hiddenGroups.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) hiddenGroups.delete(name); else hiddenGroups.add(name);
        draw();
      });
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = groups.colours[groups.names.indexOf(name)];
      return make("li", {}, [make("label", {}, [box, swatch, `${name} ${percent(shares.get(name) / all)}`])]);
    }));
  }

  // A bar from 0 to a value, within a range that contains 0.
  function bar(value, [low, high], text, className) {
    const svg = document.createElementNS(SVG, "svg");
    const add = (tag, attributes) => {
      const element = svg.appendChild(document.createElementNS(SVG, tag));
      Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    };
    const at = (value) => (100 * (value - low)) / (high - low || 1);
    svg.setAttribute("viewBox", "0 0 100 14");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    add("rect", { x: at(Math.min(0, value)), y: 2, width: Math.abs(at(value) - at(0)), height: 10, class: className });
    add("line", { x1: at(0), x2: at(0), y1: 0, y2: 14 });
    return make("div", { className: "bar" }, [svg, make("span", { textContent: text })]);
  }

  function drawBars() {
    const head = (...titles) => make("thead", {}, [make("tr", {}, titles.map((title) =>
      make("th", { scope: "col", textContent: title })))]);
    const row = (name, ...bars) => make("tr", {}, [make("th", { scope: "row", textContent: name }),
      ...bars.map((bar) => make("td", {}, [bar]))]);
    const [lattice, none, all] = tensor.rates;
    const most = Math.max(lattice, none, all);
    const rate = (name, bits) => row(name, bar(bits, [0, most], bits.toFixed(3), "rate"));
    byId("rates").replaceChildren(head("coded", "bits per weight"), make("tbody", {}, [rate("lattice", lattice),
      rate("no tool but RDOQ", none), rate("all tools", all)]));
    const ranges = [0, 1].map((n) => tensor.tools.map((tool) => tool[n]))
      .map((values) => [Math.min(0, ...values), Math.max(0.01, ...values)]);
    const gain = (bits, n) => bar(bits, ranges[n], signed(bits), bits < 0 ? "loss" : "gain");
    byId("here").replaceChildren(head("tool", "left out", "alone"), make("tbody", {},
      tensor.tools.map((values, i) => row(data.tools[i], ...values.map(gain)))));
  }

  // The whole matrix, with the tiles that were looked at.
  function drawMap() {
    const [rows, columns] = tensor.matrix, scale = 120 / Math.max(rows, columns);
    const sides = [rows, columns].map((side) => Math.max(6, side * scale));
    const svg = document.createElementNS(SVG, "svg");
    const add = (at, of, className) => {
      const rect = svg.appendChild(document.createElementNS(SVG, "rect"));
      const place = { x: at[1] * sides[1] / columns, y: at[0] * sides[0] / rows,
        width: Math.max(2, of[1] * sides[1] / columns), height: Math.max(2, of[0] * sides[0] / rows), class: className };
      Object.entries(place).forEach(([name, value]) => rect.setAttribute(name, value));
    };
    svg.setAttribute("width", sides[1] + 2);
    svg.setAttribute("height", sides[0] + 2);
    svg.setAttribute("viewBox", `-1 -1 ${sides[1] + 2} ${sides[0] + 2}`);
    svg.setAttribute("aria-hidden", "true");
    add([0, 0], [rows, columns], "whole");
    for (const { at, sides, takes } of tensor.tiles) add(at, sides, takes ? "transform" : "lattice");
    add(tile.at, tile.sides, "chosen");
    byId("map").replaceChildren(svg, make("p", { className: "note", textContent:
      `This tile takes ${tile.transform.toFixed(3)} bits per weight in mode transform and ${tile.lattice.toFixed(3)} on the ` +
      `lattice, at the step of the tensor. By error and rate together, ${tile.takes ? "mode transform" : "the lattice"} is ` +
      "cheaper." + (tile.ways.length ? ` The tile as a whole is coded with ${tile.ways.join(", ")}.` : "") +
      (tile.ways.some((way) => way.endsWith("-order")) ? " The picture has its rows and columns in the order of coding." : "") }));
  }

  function drawAll() {
    if (!tile) return;
    drawMap();
    draw();
    drawScale();
    drawLegend();
  }

  function chooseTile(chosen) {
    tile = chosen;
    cursor = null;
    [...byId("tiles").children].forEach((button, i) =>
      button.setAttribute("aria-pressed", String(tensor.tiles[i] === tile)));
    drawAll();
  }

  function choose(index, scroll) {
    tensor = data.tensors[index];
    byId("view-title").textContent = tensor.name;
    byId("viewer").hidden = false;
    for (const row of byId("tensors").tBodies[0].rows) {
      if (row.dataset.tensor === String(index)) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    byId("about").textContent = tensor.about;
    document.querySelector(".columns").hidden = !tensor.rates;
    if (tensor.rates) {
      drawBars();
      byId("tiles").replaceChildren(...tensor.tiles.map((tile) => {
        const [row, column] = tile.at, [height, width] = tile.sides;
        const button = make("button", { type: "button", textContent:
          `rows ${row}\u2013${row + height - 1}, columns ${column}\u2013${column + width - 1}` });
        button.addEventListener("click", () => chooseTile(tile));
        return button;
      }));
      document.querySelector(".picture").hidden = !tensor.tiles.length;
      tile = null;
      if (tensor.tiles.length) chooseTile(tensor.tiles[0]);
    }
    if (scroll) byId("view").scrollIntoView();
  }

  // Controls.
  Object.keys(OVERLAYS).forEach((name, i) => {
    const radio = make("input", { type: "radio", name: "overlay", checked: i === 0 });
    radio.addEventListener("change", () => {
      overlay = name;
      hiddenGroups.clear();
      drawAll();
    });
    byId("overlays").append(make("label", {}, [radio, name]));
  });
  byId("partition").addEventListener("change", draw);
  dark.addEventListener("change", drawAll);
  const canvas = byId("canvas");
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), [rows, columns] = tile.sides;
    cursor = [Math.floor(((event.clientY - box.top) / box.height) * rows),
      Math.floor(((event.clientX - box.left) / box.width) * columns)];
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-4, 0], ArrowDown: [4, 0], ArrowLeft: [0, -4], ArrowRight: [0, 4] }[event.key];
    if (!move) return;
    event.preventDefault();
    cursor = [0, 1].map((side) => Math.min(tile.sides[side] - 1, Math.max(0, (cursor || [0, 0])[side] + move[side])));
    draw();
  });

  // The table: sorted by any column, filtered, a button in each row.
  const table = byId("tensors"), body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const first = column === 0 ? "ascending" : "descending", other = column === 0 ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      [...table.tHead.rows[0].cells].forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const key = (row) => (column === 0 ? row.cells[0].textContent : Number(row.cells[column].dataset.value));
      const less = (a, b) => (column === 0 ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      const rows = [...body.rows].sort((a, b) => less(key(a), key(b)));
      body.append(...(order === "ascending" ? rows : rows.reverse()));
    });
  });
  function filter() {
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(byId("filter").value.toLowerCase()) ||
        (byId("earning").checked && !row.hasAttribute("data-earns"));
      shown += !row.hidden;
    }
    byId("count").textContent = `${shown} of ${body.rows.length} tensors`;
  }
  byId("filter").addEventListener("input", filter);
  byId("earning").addEventListener("change", filter);
  body.addEventListener("click", (event) => {
    const row = event.target.closest("button") && event.target.closest("tr");
    if (row) choose(Number(row.dataset.tensor), true);
  });
  filter();
  if (data.tensors.length) choose(data.first, false);
})();
