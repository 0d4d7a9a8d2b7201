// Makes the table of all rows with DataTables: sorted by a click on a head, filtered by words and by call.
(() => {
  const { columns, rows } = JSON.parse(document.getElementById("everything-rows").textContent);
  const text = DataTable.render.text(); // names come from outside: they are shown, never interpreted
  const call = columns.indexOf("Call");
  const table = new DataTable("#everything", {
    data: rows,
    columns: columns.map((title) => ({ title, render: text, defaultContent: "" })),
    order: [],
    deferRender: true,
    pageLength: 25,
    autoWidth: false,
    layout: { topStart: "pageLength", topEnd: "search", bottomStart: "info", bottomEnd: "paging" },
  });
  const select = document.createElement("select");
  select.id = "call";
  select.setAttribute("aria-label", "Call");
  for (const value of ["every call", ...new Set(rows.map((row) => row[call]))]) select.append(new Option(value));
  select.addEventListener("change", () => {
    const value = select.selectedIndex ? `^${select.value}$` : "";
    table.column(call).search(value, { regex: true }).draw();
  });
  document.getElementById("everything").before(select);
})();
