// Words as chips: commas (or Enter) end one; "sofa: couch, settee" and Enter gives synonyms.

export class Words {
  /** @param box element with a list and an input  @param changed called after every change */
  constructor(box, changed) {
    this.list = box.querySelector("ul");
    this.input = box.querySelector("input");
    this.changed = changed;
    this.words = []; // [{name, synonyms}]
    box.addEventListener("click", (event) => event.target === box && this.input.focus());
    this.input.addEventListener("input", () => this.#typed());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("paste", (event) => this.#pasted(event));
    this.input.addEventListener("blur", () => this.finish());
  }

  /** What a request sends: {"cat": [], "sofa": ["couch"]} */
  value() {
    return Object.fromEntries(this.words.map((word) => [word.name, word.synonyms]));
  }

  set(names) {
    this.words = [];
    names.forEach((name) => this.#add(name));
    this.input.value = "";
    this.#draw();
  }

  /** Make a chip of what is still in the input. Returns whether there was anything. */
  finish() {
    const text = this.input.value.trim();
    if (text) this.add(text);
    this.input.value = "";
    return Boolean(text);
  }

  /** Add words as people write them: commas or lines; after "name:" come its synonyms. */
  add(text) {
    for (const line of text.split(/[\n;]/)) {
      const [before, ...after] = line.split(":");
      const names = before.split(",");
      names.forEach((name, i) => {
        const last = i === names.length - 1;
        this.#add(name, last && after.length ? after.join(":").split(",") : []);
      });
    }
    this.#draw();
  }

  #add(name, synonyms = []) {
    name = name.trim();
    if (!name) return;
    const same = (word) => word.name.toLowerCase() === name.toLowerCase();
    let word = this.words.find(same);
    if (!word) this.words.push((word = { name, synonyms: [] }));
    word.synonyms.push(...synonyms.map((s) => s.trim()).filter(Boolean));
  }

  #typed() {
    const text = this.input.value;
    if (text.includes(",") && !text.includes(":")) {
      const rest = text.slice(text.lastIndexOf(",") + 1);
      this.add(text.slice(0, text.lastIndexOf(",")));
      this.input.value = rest.trimStart();
    }
  }

  #key(event) {
    if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.isComposing) {
      if (this.finish()) event.preventDefault(); // an empty line submits the form
    } else if (event.key === "Backspace" && !this.input.value && this.words.length) {
      event.preventDefault();
      const word = this.words.pop(); // back into the input, to be changed
      this.input.value = word.synonyms.length
        ? `${word.name}: ${word.synonyms.join(", ")}` : word.name;
      this.#draw();
    }
  }

  #pasted(event) {
    const text = event.clipboardData.getData("text/plain");
    if (/[,\n;]/.test(text)) {
      event.preventDefault();
      this.add(this.input.value + text);
      this.input.value = "";
    }
  }

  #draw() {
    this.list.replaceChildren(...this.words.map((word, i) => {
      const chip = document.createElement("li");
      const name = chip.appendChild(document.createElement("span"));
      name.textContent = word.name;
      if (word.synonyms.length) {
        const more = name.appendChild(document.createElement("small"));
        more.textContent = `, ${word.synonyms.join(", ")}`;
      }
      const remove = chip.appendChild(document.createElement("button"));
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `Remove ${word.name}`);
      remove.addEventListener("click", () => {
        this.words.splice(i, 1);
        this.#draw();
        this.input.focus();
      });
      return chip;
    }));
    this.input.placeholder = this.words.length ? "" : "cat, sofa, window";
    this.changed();
  }
}
