"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { runs, settings } = data;
  const INK = "#222", GRID = "#e8e8e8";
  const hidden = new Set(); // numbers of settings that are switched off
  const charts = []; // functions that draw again
  const arrivals = new Map(); // figures that are not drawn yet
  const watch = new IntersectionObserver(entries => entries.filter(each => each.isIntersecting).forEach(each => arrive(each.target)),
    { rootMargin: "150px 0px" });

  // ---- elements; text is only ever set as text ----
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.map(child => (child instanceof Node ? child : document.createTextNode(String(child)))));
    return made;
  }
  const section = name => document.getElementById(name);
  // Plotly reads some tags in its texts: what runs are called is no markup there either.
  const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const number = (value, digits = 4) =>
    value === null || value === undefined ? "–" : Number(value).toLocaleString("en", { maximumSignificantDigits: digits });
  const shown = run => !hidden.has(run.setting);
  const visible = () => runs.filter(shown);

  function choice(label, options, onChange, unavailable = new Set()) {
    const select = element("select");
    for (const [value, text] of options) {
      const option = element("option", { value }, unavailable.has(value) ? `${text} (not recorded)` : text);
      option.disabled = unavailable.has(value);
      select.append(option);
    }
    const first = options.find(([value]) => !unavailable.has(value));
    if (first) select.value = first[0];
    select.addEventListener("change", onChange);
    return { select, label: element("label", {}, label, select), get value() { return select.value; } };
  }

  // ---- charts ----
  const CONFIG = { displaylogo: false, responsive: true, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const font = { family: '"Liberation Sans", Arial, Helvetica, sans-serif', size: 12, color: INK };
  const axis = (title, more = {}) => ({ title: { text: title, standoff: 8 }, gridcolor: GRID, zerolinecolor: GRID,
    linecolor: "#999", ticks: "outside", tickcolor: "#999", ticklen: 4, automargin: true, ...more });
  const layout = (x, y, more = {}) => ({ font, showlegend: false, margin: { l: 58, r: 14, t: 8, b: 46 },
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", xaxis: x, yaxis: y, hovermode: "closest",
    hoverlabel: { font: { ...font, size: 12 }, align: "left", namelength: -1 }, ...more });

  // A figure with its heading, switches and a sentence on what is drawn; `draw` gives traces and layout, or a sentence.
  function chart(where, { id, title, caption, controls = [], wide = false, draw }) {
    const box = element("div", { class: "plot", id });
    const text = element("figcaption");
    const figure = element("figure", wide ? { class: "wide" } : {},
      element("div", { class: "head" }, element("h3", {}, title),
        element("div", { class: "controls" }, ...controls.map(each => each.label))), box, text);
    where.append(figure);
    let seen = false; // a figure is drawn when it comes near the window: the page opens at once
    const render = () => {
      if (!seen) return;
      const drawn = draw();
      text.textContent = typeof caption === "function" ? caption() : caption;
      if (typeof drawn === "string") {
        Plotly.purge(box);
        box.className = "empty";
        box.textContent = drawn;
        return;
      }
      if (box.className === "empty") { box.className = "plot"; box.textContent = ""; }
      Plotly.react(box, drawn.traces, drawn.layout, CONFIG);
    };
    charts.push(render);
    arrivals.set(figure, () => { seen = true; render(); });
    watch.observe(figure);
    return render;
  }
  function arrive(figure) {
    watch.unobserve(figure);
    arrivals.get(figure)?.();
    arrivals.delete(figure);
  }
  window.addEventListener("beforeprint", () => [...arrivals.keys()].forEach(arrive));
  const redraw = () => charts.forEach(render => render());
  const rgba = (hex, alpha) =>
    `rgba(${[1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;
  const look = (setting, width = 2) => ({ color: setting.colour, dash: setting.dash, width });

  // A line with the band between two others.
  function banded(x, line, low, high, { name, setting, width, hover, opacity = 0.14, mode = "lines", custom }) {
    const traces = [];
    if (low && low.some(value => value !== null)) {
      const rim = { x, mode: "lines", line: { width: 0, color: setting.colour }, hoverinfo: "skip", type: "scatter" };
      traces.push({ ...rim, y: low }, { ...rim, y: high, fill: "tonexty", fillcolor: rgba(setting.colour, opacity) });
    }
    traces.push({ x, y: line, type: "scatter", mode, name: plain(name), line: look(setting, width), customdata: custom,
      marker: { size: 5, color: setting.colour }, hovertemplate: hover });
    return traces;
  }

  // ---- head ----
  const total = runs.reduce((sum, run) => sum + run.steps, 0);
  section("summary").textContent =
    `${runs.length} ${runs.length === 1 ? "run" : "runs"}, ${total.toLocaleString("en")} steps recorded` +
    (runs.some(run => run.steps < run.steps_asked)
      ? `; not at the end yet: ${runs.filter(run => run.steps < run.steps_asked).length}` : "") + ".";
  settings.forEach((setting, i) => {
    const box = element("input", { type: "checkbox" });
    box.checked = true;
    box.addEventListener("change", () => { hidden[box.checked ? "delete" : "add"](i); redraw(); showRollouts(); });
    const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    sample.setAttribute("width", "30"); sample.setAttribute("height", "10"); sample.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const dashes = { solid: "", dash: "6 3", dot: "2 2", longdash: "10 3", dashdot: "6 2 2 2" };
    const attributes = { x1: 0, x2: 30, y1: 5, y2: 5, stroke: setting.colour, "stroke-width": 2.5,
      "stroke-dasharray": (dashes[setting.dash] ?? setting.dash).replaceAll("px", "") };
    for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
    sample.append(line);
    section("legend").append(element("label", {}, box, sample,
      setting.name + (setting.runs > 1 ? ` (${setting.runs} runs)` : "")));
  });

  const means = settings.some(setting => setting.mean && Object.keys(setting.mean.measures).length);
  const lines = choice("lines ", means
    ? [["mean", "mean over seeds"], ["each", "every run"]] : [["each", "every run"]], () => redraw());
  lines.select.id = "lines";
  if (means) section("legend").append(element("span", { class: "controls" }, lines.label));

  // ---- success ----
  const COSTS = [["responses", "responses sampled"], ["tokens", "tokens sampled"], ["updates", "updates"],
    ["seconds", "seconds of training"]];
  const AXES = { responses: "training responses sampled", tokens: "training tokens sampled", updates: "updates of the weights",
    seconds: "training time, evaluations left out (s)" };
  const measures = [...new Set(runs.flatMap(run => Object.keys(run.evaluations.measures)))];
  const MEASURES = { success: "success (pass@1)", finished: "responses that end before the limit",
    parsable: "responses with a readable answer", greedy: "success of the most probable response" };
  {
    const without = new Set(COSTS.map(([cost]) => cost)
      .filter(cost => runs.every(run => run.evaluations[cost].every(value => value === null))));
    const grid = element("div", { class: "grid" });
    section("success").append(grid);
    const against = choice("against ", COSTS, () => render(), without);
    const what = choice("show ", measures.map(name => [name, MEASURES[name] ?? name]), () => render());
    against.select.id = "success-against"; what.select.id = "success-measure";
    const render = chart(grid, { id: "success-plot", title: "Held-out success", wide: true,
      controls: [what, against],
      caption: () => lines.value === "mean"
        ? "Mean over seeds with its 95 % t-interval; a table with one seed has its run, with the interval over prompts."
        : "Each run, with the 95 % bootstrap interval over its held-out prompts.",
      draw: () => {
        if (!measures.length) return "No evaluation has been recorded yet.";
        const traces = [], measure = what.value, cost = against.value;
        const add = (from, setting, name, width) => {
          const values = from.measures[measure];
          if (!values) return;
          const at = from.step.map((_, i) => i).filter(i => from[cost][i] !== null);
          const column = j => at.map(i => values[i][j]);
          const custom = at.map(i => [values[i][1] === null ? "" :
            ` [${(100 * values[i][1]).toFixed(1)}, ${(100 * values[i][2]).toFixed(1)}]`, from.step[i]]);
          traces.push(...banded(at.map(i => from[cost][i]), column(0), column(1), column(2), { name, setting, width, custom,
            mode: "lines+markers", hover: "%{y:.1%}%{customdata[0]}<br>%{x:,.4~s} " + plain(COSTS.find(c => c[0] === cost)[1])
              + ", step %{customdata[1]}" }));
        };
        settings.forEach((setting, i) => {
          if (hidden.has(i)) return;
          const of = runs.filter(run => run.setting === i);
          if (lines.value === "mean" && setting.mean) add(setting.mean, setting, `${setting.name}, ${of.length} seeds`, 2.4);
          else of.forEach(run => add(run.evaluations, setting, run.name, of.length > 1 ? 1.3 : 2));
        });
        if (!traces.length) return "Nothing to draw: no run that is shown has recorded this.";
        return { traces, layout: layout(axis(AXES[cost], { rangemode: "tozero" }),
          axis(MEASURES[measure] ?? measure, { tickformat: ".0%", rangemode: "tozero" })) };
      } });
  }

  // ---- groups ----
  const stretched = () => {
    const longest = Math.max(...runs.map(run => run.steps), 0);
    const over = lines.value === "mean" ? " over seeds" : "";
    return longest > data.stretches
      ? ` Drawn in ${data.stretches} stretches of equal length: mean${over} (line), smallest and largest value (band).`
      : over ? " Mean over seeds (line), smallest and largest value (band)." : "";
  };
  const least = values => values.reduce((a, b) => (a === null || (b !== null && b < a) ? b : a), null);
  const largest = values => values.reduce((a, b) => (a === null || (b !== null && b > a) ? b : a), null);
  // The runs that are shown, or, where means are asked for, one line for those of a setting that have the same steps.
  function drawn(name) {
    const there = visible().filter(run => run.series[name]);
    if (lines.value !== "mean") return there.map(run => ({ ...run, drawn: run.series[name] }));
    return settings.flatMap((setting, i) => {
      const of = there.filter(run => run.setting === i);
      if (of.length < 2 || of.some(run => run.steps !== of[0].steps)) return of.map(run => ({ ...run, drawn: run.series[name] }));
      const column = (key, j) => of.map(run => run.series[name][key][j]);
      const at = of[0].first.map((_, j) => j);
      const mean = values => {
        const known = values.filter(value => value !== null);
        return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
      };
      return [{ ...of[0], name: `${setting.name}, ${of.length} runs`, several: true, drawn: { mean: at.map(j => mean(column("mean", j))),
        low: at.map(j => least(column("low", j))), high: at.map(j => largest(column("high", j))) } }];
    });
  }
  // A line for each run over its steps, of one of several series.
  function series(where, { id, title, options, caption, wide = false }) {
    const missing = new Set(options.map(([name]) => name).filter(name => runs.every(run => !run.series[name])));
    const pick = choice("show ", options.map(([name, text]) => [name, text]), () => render(), missing);
    pick.select.id = `${id}-pick`;
    const entry = () => options.find(([name]) => name === pick.value) ?? options[0];
    const render = chart(where, { id: `${id}-plot`, title, wide, controls: [pick],
      caption: () => (entry()[4] ?? caption) + stretched(),
      draw: () => {
        if (missing.size === options.length) return "Not recorded by these runs.";
        const [name, , label, format] = entry();
        const traces = drawn(name).flatMap(run => {
          const { mean, low, high } = run.drawn;
          const x = run.first.map((first, i) => (first + run.last[i]) / 2);
          const band = run.several || run.steps > run.first.length;
          const custom = run.first.map((first, i) => [first === run.last[i] ? `step ${first}` : `steps ${first} to ${run.last[i]}`,
            band ? low[i] : null, band ? high[i] : null]);
          return banded(x, mean, band ? low : null, band ? high : null, { name: run.name, setting: settings[run.setting],
            width: settings[run.setting].runs > 1 && !run.several ? 1.2 : 1.6, opacity: 0.13, custom, hover: `%{y:${format}}` + (band
              ? ` (%{customdata[1]:${format}} to %{customdata[2]:${format}})` : "") + "<br>%{customdata[0]}" });
        });
        if (!traces.length) return "No run that is shown has recorded this.";
        const share = format.endsWith("%");
        return { traces, layout: layout(axis("step", { rangemode: "tozero" }),
          axis(label, share ? { tickformat: ".0%", rangemode: "tozero" } : {
            rangemode: traces.every(t => t.y.every(v => v === null || v >= 0)) ? "tozero" : "normal", exponentformat: "power" })) };
      } });
  }
  {
    const grid = element("div", { class: "grid" });
    section("groups").append(grid);
    const which = choice("run ", runs.map((run, i) => [String(i), run.name]), () => render());
    which.select.id = "histogram-run";
    const run = () => runs[Number(which.value)];
    const render = chart(grid, { id: "histogram-plot", title: "Groups by number of correct responses", controls: [which],
      caption: () => "Share of all groups drawn that have K of M responses correct: 0 is all wrong, M all right." +
        (run().steps > data.stretches ? ` Mean over ${data.stretches} stretches of equal length.` : ""),
      draw: () => {
        const { histogram, first, last, group_size: size, steps } = run();
        if (!steps) return "No step has been recorded yet.";
        const custom = histogram.map(row => row.map((_, i) =>
          first[i] === last[i] ? `step ${first[i]}` : `steps ${first[i]} to ${last[i]}`));
        return { traces: [{ type: "heatmap", x: first.map((f, i) => (f + last[i]) / 2), y: [...Array(size + 1).keys()],
          z: histogram, customdata: custom, zmin: 0, zmax: 1, colorbar: { thickness: 10, outlinewidth: 0, tickformat: ".0%",
            title: { text: "share of groups", side: "right" } },
          // Equal steps of lightness, from paper to ink through the blue of the lines; the root shows rare groups too.
          colorscale: [[0, "#ffffff"], [0.01, "#e3eef7"], [0.0625, "#b3d1e8"], [0.25, "#62a3d0"], [0.5625, "#0072b2"], [1, "#04243a"]],
          hovertemplate: `%{z:.1%} of groups have %{y} of ${size} correct<br>%{customdata}<extra></extra>` }],
          layout: layout(axis("step"), axis(`correct responses K of ${size}`, { dtick: size > 20 ? undefined : size > 8 ? 4 : 1 })) };
      } });
    series(grid, { id: "silent", title: "Silent groups", options: [
      ["silent", "all wrong or all right", "share of groups", ".1%"],
      ["all_wrong", "all wrong", "share of groups", ".1%"], ["all_right", "all right", "share of groups", ".1%"]],
      caption: "Share of groups whose responses are all wrong or all right: most weightings learn nothing from them." });
  }

  // ---- weights ----
  {
    const grid = element("div", { class: "grid" });
    section("weights").append(grid);
    const known = () => visible().flatMap(run => run.tables.map(table => ({ run, table, setting: settings[run.setting] })))
      .filter((each, i, all) => all.findIndex(o => o.table.checksum === each.table.checksum) === i);
    const absent = "The table is not known: " +
      [...new Set(runs.map(run => run.tables_missing).filter(Boolean))].join("; ") + ".";
    chart(grid, { id: "weights-plot", title: "Weights in use", caption:
      "Weight ω of a prompt at K/M of its responses correct, as the table of the run has it; groups with K = 0 or M have a rule of their own.",
      draw: () => {
        const found = known();
        if (!found.length) return absent;
        const positive = found.every(({ table }) => table.weight.every(value => value > 0));
        const decades = [...Array(17).keys()].flatMap(i => [1, 2, 5].map(digit => Number(`${digit}e${i - 8}`)));
        return { traces: found.map(({ run, table, setting }) => ({ type: "scatter", mode: "lines+markers", name: plain(table.label),
          x: table.weight.map((_, i) => (i + 1) / run.group_size), y: table.weight, line: look(setting), marker: { size: 5, color: setting.colour },
          customdata: table.weight.map((_, i) => i + 1),
          hovertemplate: `ω = %{y:.4~g} at K = %{customdata} of ${run.group_size}` })),
          layout: layout(axis("share of correct responses K/M", { range: [0, 1] }),
            axis("prompt weight ω", positive ? { type: "log", tickvals: decades } : { rangemode: "tozero" })) };
      } });
    chart(grid, { id: "advantages-plot", title: "Advantages by K", caption:
      "Advantage of a correct response (filled points) and of a wrong one (open points) in a group with K of M correct.",
      draw: () => {
        const found = known();
        if (!found.length) return absent;
        return { traces: found.flatMap(({ run, table, setting }) => [["correct", 1], ["wrong", 0]].map(([side, least]) => {
          const size = run.group_size;
          const k = [...Array(size).keys()].map(i => i + least);
          return { type: "scatter", mode: "lines+markers", x: k, y: k.map(i => table[side][i]), line: look(setting, 1.6),
            marker: { size: 5, color: side === "correct" ? setting.colour : "#fff", line: { color: setting.colour, width: 1.3 } },
            name: plain(`${table.label}, ${side}`), hovertemplate: `A = %{y:.4~g} at K = %{x} of ${size}` };
        })), layout: layout(axis("correct responses K"), axis("advantage A", { zerolinecolor: "#999" })) };
      } });
    const shareless = "Not drawn: the share follows from one table for the whole run, with its own rule for all-wrong groups.";
    chart(grid, { id: "share-plot", title: "Where the gradient came from", caption:
      "Share of all |advantage| of the run, over all its groups, that groups with K of M correct had.",
      draw: () => {
        const known = visible().filter(run => run.share);
        const shown = lines.value !== "mean" ? known : settings.flatMap((setting, i) => {
          const of = known.filter(run => run.setting === i);
          return of.length ? [{ ...of[0], name: of.length > 1 ? `${setting.name}, ${of.length} runs` : of[0].name,
            share: of[0].share.map((_, k) => of.reduce((sum, run) => sum + run.share[k], 0) / of.length) }] : [];
        });
        const traces = shown.map(run => ({ type: "scatter", mode: "lines+markers", name: plain(run.name),
          x: run.share.map((_, i) => i), y: run.share, line: look(settings[run.setting], 1.5), marker: { size: 4 },
          hovertemplate: `%{y:.1%} at K = %{x} of ${run.group_size}` }));
        return traces.length ? { traces, layout: layout(axis("correct responses K"),
          axis("share of all |advantage|", { tickformat: ".0%", rangemode: "tozero" })) } : shareless;
      } });
    series(grid, { id: "advantage", title: "Advantage in use", options: [
      ["mean_abs_advantage", "mean |advantage|", "mean |A| over a full batch", ".4~g"],
      ["all_wrong_factor", "factor of all-wrong groups", "factor", ".3~g"]],
      caption: "Mean over all responses of a full batch, groups that are missing from it counted as 0." });
  }

  // ---- steps ----
  {
    const grid = element("div", { class: "grid" });
    section("steps").append(grid);
    series(grid, { id: "mismatch", title: "Mismatch and KL", options: [
      ["sampler_kl", "KL(sampler ‖ trainer)", "nats per token", ".3~g", "How far the sampler is from the policy that is trained: estimate per token."],
      ["log_ratio_max", "largest |log ratio|", "nats", ".3~g", "Largest distance of the two log-probabilities of one sampled token."],
      ["log_ratio_mean", "mean log ratio", "nats", ".3~g", "Mean of the trainer's minus the sampler's log-probability of a sampled token."],
      ["importance_truncated", "truncated importance weights", "share of tokens", ".2%", "Tokens whose importance weight was cut to the cap."],
      ["ratio_clipped", "clipped ratios", "share of tokens", ".2%", "Tokens without gradient because the clip of the ratio acted."],
      ["kl_per_token", "KL(policy ‖ reference), per token", "nats per token", ".3~g", "Distance from the reference, before the first update of a step."],
      ["kl_per_response", "KL(policy ‖ reference), per response", "nats per response", ".3~g", "Distance from the reference, before the first update of a step."]] });
    series(grid, { id: "length", title: "Length", options: [
      ["length", "tokens per response", "tokens per response", ".4~g", "Mean number of tokens of a response, its end included."],
      ["finished", "responses that end by themselves", "share of responses", ".1%", "Responses that end before the length limit."],
      ["parsable", "readable answers", "share of responses", ".1%", "Responses in which an answer could be read, right or wrong."]] });
    series(grid, { id: "throughput", title: "Throughput", options: [
      ["responses_per_second", "responses per second", "responses per second", ".4~g", "Responses of a step over all its seconds, evaluations left out."],
      ["tokens_per_second", "tokens per second", "tokens per second", ".4~g", "Tokens of a step over all its seconds, evaluations left out."],
      ["seconds", "seconds per step", "seconds per step", ".3~g", "All of a step but its evaluation."],
      ["seconds_sampling", "seconds of sampling", "seconds per step", ".3~g", "Drawing prompts and responses."],
      ["seconds_verifying", "seconds of verifying", "seconds per step", ".3~g", "Judging responses and weighing them."],
      ["seconds_learning", "seconds of learning", "seconds per step", ".3~g", "Gradient and update."],
      ["seconds_hand_over", "seconds of handing over", "seconds per step", ".3~g", "Giving the new weights to the sampler, with the proof that it has them."]] });
    series(grid, { id: "learning", title: "Learning", options: [
      ["reward", "training success", "share of correct responses", ".1%", "Share of correct responses among all that were drawn."],
      ["entropy", "entropy", "nats per token", ".3~g", "Mean of -log p over the sampled tokens."],
      ["gradient_norm", "gradient norm", "norm before clipping", ".3~g", "Euclidean norm of the gradient before clipping."],
      ["clip_factor", "clip factor", "factor", ".3~g", "What the gradient was multiplied by: 1 where it was not clipped."],
      ["learning_rate", "learning rate", "learning rate", ".3~g", "Of each update of a step."],
      ["distinct_responses", "rows of the gradient", "responses", ".4~g", "Distinct responses that the gradient was computed from."],
      ["timed_out", "verifier out of time", "responses", ".4~g", "Responses that count as wrong because the verifier ran out of time."],
      ["failed", "verifier failed", "responses", ".4~g", "Responses that count as wrong because the verifier failed."],
      ["left_out", "prompts too long", "prompts", ".4~g", "Prompts that do not fit into the model's context."]] });
    const stages = ["sampling", "verifying", "learning", "hand_over", "evaluating"];
    const timed = runs.filter(run => run.timed);
    if (timed.length) section("steps").append(element("details", {}, element("summary", {}, "Seconds by stage"),
      table(["run", ...stages.map(stage => stage.replace("_", "-")), "steps timed"],
        timed.map(run => [run.name, ...stages.map(stage => number(run.stages[stage])), number(run.timed)]), 1)));
    for (const run of runs.filter(each => each.warnings.length))
      section("steps").append(element("p", { class: "note" }, `Warning of ${run.name}: ${run.warnings[0]}`));
  }

  function table(heads, rows, numbers = Infinity) {
    const row = cells => element("tr", {}, ...cells.map((cell, i) =>
      element("td", { class: i >= numbers ? "number" : i === 0 ? "key" : "" }, cell)));
    return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {},
      ...heads.map((head, i) => element("th", i >= numbers ? { class: "number" } : {}, head)))),
      element("tbody", {}, ...rows.map(row))));
  }

  // ---- rollouts ----
  const PAGE = 40;
  const rollouts = runs.flatMap(run => run.rollouts.map(each => ({ ...each, run })));
  let page = 1;
  const search = element("input", { type: "search", placeholder: "text in prompt or response", id: "rollout-search" });
  const verdict = choice("verdict ", [["all", "all"], ["correct", "correct"], ["wrong", "wrong"]], () => start());
  const ofRun = choice("run ", [["all", "all"], ...runs.map((run, i) => [String(i), run.name])], () => start());
  const order = choice("sort by ", [["step", "step"], ["late", "step, last first"], ["advantage", "|advantage|, largest first"]], () => start());
  verdict.select.id = "rollout-verdict";
  const count = element("p", { class: "note", id: "rollout-count" });
  const body = element("tbody", { id: "rollout-rows" });
  const more = element("button", { type: "button", id: "rollout-more" }, "show more");
  const start = () => { page = 1; showRollouts(); };
  search.addEventListener("input", start);
  more.addEventListener("click", () => { page += 1; showRollouts(); });
  function showRollouts() {
    const wanted = search.value.toLowerCase();
    const size = each => Math.abs(typeof each.advantage === "number" ? each.advantage : 0);
    const found = rollouts.filter(each => shown(each.run) && (verdict.value === "all" || each.correct === (verdict.value === "correct"))
      && (ofRun.value === "all" || each.run === runs[Number(ofRun.value)])
      && (!wanted || each.prompt.toLowerCase().includes(wanted) || each.response.toLowerCase().includes(wanted)));
    if (order.value === "late") found.sort((a, b) => b.step - a.step);
    else if (order.value === "advantage") found.sort((a, b) => size(b) - size(a));
    else found.sort((a, b) => a.step - b.step);
    count.textContent = `${found.length.toLocaleString("en")} of ${rollouts.length.toLocaleString("en")} responses`;
    const heads = ["step", "run", "prompt", "response", "verdict", "advantage"];
    body.replaceChildren(...found.slice(0, PAGE * page).map(each => element("tr", {}, ...[
      [number(each.step), "number"], [each.run.name, ""], [each.prompt, "text"],
      [each.response + (each.finished ? "" : " … (cut at the length limit)"), "text"],
      [each.correct ? "correct" : "wrong", each.correct ? "right" : "wrong"],
      [each.advantage === null ? "dropped" : typeof each.advantage === "number" ? number(each.advantage) : each.advantage, "number"],
    ].map(([text, kind], i) => element("td", { class: kind, "data-head": heads[i] }, text)))));
    more.hidden = found.length <= PAGE * page;
  }
  {
    const without = runs.filter(run => !run.rollouts_recorded);
    if (rollouts.length) section("rollouts").append(
      element("div", { class: "controls" }, element("label", {}, "search ", search), verdict.label, ofRun.label, order.label), count,
      element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {},
        element("th", { class: "number" }, "step"), ...["run", "prompt", "response", "verdict"].map(head => element("th", {}, head)),
        element("th", { class: "number" }, "advantage"))), body)), more,
      element("p", { class: "note" }, `Whole groups, evenly over the part of each run that was recorded; texts are cut at ${data.characters.toLocaleString("en")} characters.`));
    if (without.length) section("rollouts").append(element("p", { class: "empty" },
      `${rollouts.length ? without.map(run => run.name).join(", ") + ": no" : "No"} responses are recorded; the key training.rollout_share = 0.01 has a run keep every hundredth group.`));
    showRollouts();
  }

  // ---- tables ----
  {
    const seen = new Set();
    for (const run of runs) {
      if (run.tables_missing) section("tables").append(element("p", { class: "empty" }, `${run.name}: ${run.tables_missing}.`));
      for (const each of run.tables) {
        if (seen.has(each.checksum)) continue;
        seen.add(each.checksum);
        const proof = Object.entries(each.certificate);
        section("tables").append(element("h3", {}, `${each.label}, for groups of ${run.group_size}`),
          element("p", { class: "note" }, proof.length ? "Solved for, with this certificate:" : "A named weighting: it solves nothing, and has no certificate."),
          table(["", ""], [...proof, ...Object.entries(each.provenance), ["checksum", each.checksum]]));
        if (Object.keys(each.problem).length) section("tables").append(element("details", {}, element("summary", {}, "The problem"),
          table(["", ""], Object.entries(each.problem))));
      }
    }
  }

  // ---- configuration ----
  {
    const where = section("configuration");
    if (runs.length > 1) where.append(element("h3", {}, "Differences"), data.differences.length
      ? table(["key", ...runs.map(run => run.name)], data.differences) : element("p", { class: "note" }, "None."));
    for (const run of runs) where.append(element("details", {}, element("summary", {}, runs.length > 1 ? `Everything of ${run.name}` : "Every key and version"),
      table(["key", "value"], [["folder", run.folder], ...Object.entries(run.config),
        ...Object.entries(run.versions).map(([key, value]) => [`version of ${key}`, value])])));
  }

})();
