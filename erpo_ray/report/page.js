"use strict";
(() => {
  const form = document.getElementById("filter");
  const count = document.getElementById("count");
  const cases = [...document.querySelectorAll("details.case")];
  const texts = cases.map((one) => one.textContent.toLowerCase());
  const apply = () => {
    const wanted = new FormData(form);
    const words = wanted.get("words").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    cases.forEach((one, number) => {
      const fits =
        ["turn", "label", "category"].every((key) => !wanted.get(key) || one.dataset[key] === wanted.get(key)) &&
        words.every((word) => texts[number].includes(word));
      one.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${cases.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = cases.length === 0;
  apply();
})();
